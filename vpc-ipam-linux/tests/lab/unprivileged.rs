use std::process::Command;

/// Who is not root has all that a lab needs inside namespaces of their own, and so does a test in such a namespace.
#[test]
fn lab_works_inside_a_user_namespace() {
    let inside = "traffic::all_reach_each_other_and_nothing_is_dropped";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "sh", "-c"])
        .arg("mount -t tmpfs tmpfs /run && exec \"$0\" \"$@\"")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", inside])
        .output()
        .unwrap_or_else(|error| panic!("unshare, of util-linux, is needed: {error}"));

    let says = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && says.contains("1 passed"), "{says}");
}
