//! What a runtime may send by mistake: a call is read, or refused with an error that says why; the reader never panics.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use vpc_cni::Call;

const REQUESTS: u64 = 10_000;
const COMMANDS: [&str; 6] = ["ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION"];
const CONFIG: &str = r#"{"cniVersion":"1.1.0","name":"aws-cni","type":"vpc-cni","mtu":"9001","vethPrefix":"eni","socket":"/run/x.sock",
"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"k8s.amazonaws.com/nicConfig":"multi-nic-attachment"}},
"cni.dev/valid-attachments":[{"containerID":"c0ffee","ifname":"eth0"}],
"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/a"}],"ips":[{"interface":0,"address":"10.0.0.9/32"}]}}"#;

#[test]
fn configuration_with_anything_wrong_about_it_is_read_or_refused_with_a_reason() {
    let mut refused = 0;
    for seed in 0..REQUESTS {
        let mut rng = fastrand::Rng::with_seed(seed);
        let command = COMMANDS[rng.usize(..COMMANDS.len())];
        let config = garbage(&mut rng);
        let env = |name: &str| {
            let value = match name {
                "CNI_COMMAND" => command,
                "CNI_CONTAINERID" => "c0ffee",
                "CNI_NETNS" => "/run/netns/a",
                "CNI_IFNAME" => "eth0",
                "CNI_PATH" => "/opt/cni/bin",
                _ => return None,
            };
            Some(value.to_owned())
        };
        if let Err((_, error)) = Call::parse(env, &*config) {
            assert!(!error.message.is_empty(), "seed {seed}");
            refused += 1;
        }
    }
    assert!((REQUESTS / 4..REQUESTS).contains(&refused), "{refused} of {REQUESTS} refused");
}

/// Returns a configuration that was damaged in several places, or bytes by chance.
fn garbage(rng: &mut fastrand::Rng) -> Vec<u8> {
    if rng.u8(..8) == 0 {
        return (0..rng.usize(..4096)).map(|_| rng.u8(..)).collect();
    }
    let mut bytes = CONFIG.as_bytes().to_vec();
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(..bytes.len());
        match rng.u8(..6) {
            0 => bytes[at] = rng.u8(..),
            1 => bytes.truncate(at.max(1)),
            2 => bytes.insert(at, *b"{}[]\",:0-"[..].get(rng.usize(..9)).unwrap()),
            // Another value of the same length: JSON that says something else.
            3 => bytes[at] = b'0' + rng.u8(..10),
            4 => drop(bytes.drain(at..(at + rng.usize(..20)).min(bytes.len() - 1).max(at))),
            _ => {
                let depth = rng.usize(..5000);
                bytes.splice(at..at, core::iter::repeat_n(b'[', depth));
            }
        }
    }
    bytes
}
