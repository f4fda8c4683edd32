// Calls the plugin as runtimes of today do: through libcni, and through go-cni, by which containerd does it.
//
// It runs in the network namespace of a lab's node; scripts/interop.sh makes the lab.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	gocni "github.com/containerd/go-cni"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

const (
	networkName = "aws-cni"
	cniVersion  = "1.1.0"
	// Of CNI 1.1: the plugin cannot serve an ADD.
	notAvailable = 50
)

var (
	socket  = flag.String("socket", "", "the daemon's socket")
	plugins = flag.String("plugins", "", "the folder with vpc-cni")
	folder  = flag.String("folder", "", "an empty folder to write to")
	netns   = flag.String("netns", "", "the path of pods' namespaces, without their numbers; there are 4")
)

func main() {
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"github.com/containernetworking/cni", withLibcni},
		{"github.com/containerd/go-cni", withGoCni},
	} {
		if err := step.run(ctx); err != nil {
			fmt.Fprintf(os.Stderr, "interop: %s %s: %v\n", step.name, version(step.name), err)
			os.Exit(1)
		}
		fmt.Printf("interop: %s %s: passed\n", step.name, version(step.name))
	}
}

// withLibcni calls ADD, CHECK, GC, STATUS and DEL.
func withLibcni(ctx context.Context) error {
	list, err := configuration(*socket)
	if err != nil {
		return err
	}
	cni := client("cache")
	if err := cni.GetStatusNetworkList(ctx, list); err != nil {
		return fmt.Errorf("STATUS of a node that serves: %w", err)
	}
	if err := expectUnavailable(ctx); err != nil {
		return err
	}

	// The third is of a runtime that lost what it knew: no cache of this client has it.
	kept, cached, lost := attachment(0), attachment(1), attachment(2)
	addresses := map[string]*libcni.RuntimeConf{}
	for _, add := range []struct {
		cni *libcni.CNIConfig
		to  *libcni.RuntimeConf
	}{{cni, kept}, {cni, cached}, {client("lost"), lost}} {
		address, err := addAndCheck(ctx, add.cni, list, add.to)
		if err != nil {
			return err
		}
		if other := addresses[address]; other != nil {
			return fmt.Errorf("%s has the address %s of %s", add.to.ContainerID, address, other.ContainerID)
		}
		addresses[address] = add.to
	}

	valid := []types.GCAttachment{{ContainerID: kept.ContainerID, IfName: kept.IfName}}
	if err := cni.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: valid}); err != nil {
		return fmt.Errorf("GC: %w", err)
	}
	for address, of := range addresses {
		if routed := isRouted(address); routed != (of == kept) {
			return fmt.Errorf("after GC %s of %s is routed: %t", address, of.ContainerID, routed)
		}
	}
	if err := cni.CheckNetworkList(ctx, list, kept); err != nil {
		return fmt.Errorf("CHECK of what GC kept: %w", err)
	}

	// Twice, as a runtime does that was not told of the first.
	for range 2 {
		if err := cni.DelNetworkList(ctx, list, kept); err != nil {
			return fmt.Errorf("DEL: %w", err)
		}
	}
	for address := range addresses {
		if isRouted(address) {
			return fmt.Errorf("%s is routed after DEL", address)
		}
	}
	return nil
}

// withGoCni does what containerd's CRI plugin does for a pod.
func withGoCni(ctx context.Context) error {
	conf := filepath.Join(*folder, "go-cni")
	if err := os.Mkdir(conf, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(conf, "10-vpc-ipam.conflist"), document(*socket), 0o644); err != nil {
		return err
	}
	cni, err := gocni.New(
		gocni.WithMinNetworkCount(1),
		gocni.WithPluginConfDir(conf),
		gocni.WithPluginDir([]string{*plugins}),
		gocni.WithInterfacePrefix("eth"),
	)
	if err != nil {
		return err
	}
	if err := cni.Load(gocni.WithDefaultConf); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	if err := cni.Status(); err != nil {
		return fmt.Errorf("status: %w", err)
	}
	pod := attachment(3)
	result, err := cni.Setup(ctx, pod.ContainerID, pod.NetNS, gocni.WithLabels(map[string]string{
		"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": pod.ContainerID, "IgnoreUnknown": "1",
	}))
	if err != nil {
		return fmt.Errorf("setup: %w", err)
	}
	eth0 := result.Interfaces["eth0"]
	if eth0 == nil || len(eth0.IPConfigs) != 1 {
		return fmt.Errorf("setup told no address of eth0: %+v", result)
	}
	address := eth0.IPConfigs[0].IP.String()
	if !isRouted(address) {
		return fmt.Errorf("%s is not routed after setup", address)
	}
	if err := cni.Check(ctx, pod.ContainerID, pod.NetNS); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if err := cni.Remove(ctx, pod.ContainerID, pod.NetNS); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	if isRouted(address) {
		return fmt.Errorf("%s is routed after remove", address)
	}
	return nil
}

// expectUnavailable asks where no daemon is.
func expectUnavailable(ctx context.Context) error {
	list, err := configuration(filepath.Join(*folder, "no-daemon.sock"))
	if err != nil {
		return err
	}
	err = client("none").GetStatusNetworkList(ctx, list)
	var told *types.Error
	if !errors.As(err, &told) || told.Code != notAvailable {
		return fmt.Errorf("STATUS without a daemon: %v, not an error of code %d", err, notAvailable)
	}
	return nil
}

// addAndCheck returns the address that ADD told.
func addAndCheck(ctx context.Context, cni *libcni.CNIConfig, list *libcni.NetworkConfigList, to *libcni.RuntimeConf) (string, error) {
	raw, err := cni.AddNetworkList(ctx, list, to)
	if err != nil {
		return "", fmt.Errorf("ADD of %s: %w", to.ContainerID, err)
	}
	if raw.Version() != cniVersion {
		return "", fmt.Errorf("ADD answered in version %s", raw.Version())
	}
	result, err := types100.GetResult(raw)
	if err != nil {
		return "", err
	}
	if len(result.IPs) != 1 {
		return "", fmt.Errorf("ADD told no single address: %v", result)
	}
	address := result.IPs[0].Address.IP.String()
	if !isRouted(address) {
		return "", fmt.Errorf("%s is not routed after ADD", address)
	}
	if err := cni.CheckNetworkList(ctx, list, to); err != nil {
		return "", fmt.Errorf("CHECK of %s: %w", to.ContainerID, err)
	}
	return address, nil
}

func client(cache string) *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir([]string{*plugins}, filepath.Join(*folder, cache), nil)
}

func configuration(socket string) (*libcni.NetworkConfigList, error) {
	return libcni.NetworkConfFromBytes(document(socket))
}

func document(socket string) []byte {
	text, err := json.Marshal(map[string]any{
		"cniVersion": cniVersion,
		"name":       networkName,
		"plugins":    []any{map[string]any{"type": "vpc-cni", "socket": socket}},
	})
	if err != nil {
		panic(err)
	}
	return text
}

func attachment(number int) *libcni.RuntimeConf {
	name := fmt.Sprintf("interop%d", number)
	return &libcni.RuntimeConf{
		ContainerID: name,
		NetNS:       fmt.Sprintf("%s%d", *netns, number),
		IfName:      "eth0",
		Args: [][2]string{
			{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", name},
		},
	}
}

// isRouted tells whether the node sends packets for an address to a pod.
func isRouted(address string) bool {
	output, err := exec.Command("ip", "-4", "route", "show", "table", "all", address).CombinedOutput()
	if err != nil {
		panic(fmt.Sprintf("ip route: %v: %s", err, output))
	}
	return strings.Contains(string(output), " dev eni")
}

// version returns the version of a module that this program was built with.
func version(module string) string {
	info, _ := debug.ReadBuildInfo()
	for _, dependency := range info.Deps {
		if dependency.Path == module {
			return dependency.Version
		}
	}
	return "(unknown)"
}
