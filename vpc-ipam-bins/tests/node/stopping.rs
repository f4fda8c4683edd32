//! SIGTERM, whatever the program waits for.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::process::Signal;

use crate::alone::Alone;
use crate::support::{signal, wait_until};

#[test]
fn start_ends_while_the_metadata_service_is_away() {
    let alone = Alone::new();
    // Nothing listens there: discard's port.
    let ipamd = alone.ipamd(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")]);
    ipamd.wait_until_it_says("cannot read the instance's metadata yet");
    ipamd.terminate();
}

#[test]
fn start_ends_while_nft_hangs_and_nft_gets_no_key() {
    let alone = Alone::new();
    let programs = alone.folder.path().join("bin");
    fs::create_dir(&programs).unwrap();
    let began = alone.folder.path().join("began");
    let script = format!(
        "#!/bin/sh\n(echo $$; env) > {0}.new\nmv {0}.new {0}\nexec sleep 1000\n",
        began.display()
    );
    for name in ["nft", "iptables-nft-save", "iptables-legacy-save", "iptables-save"] {
        let path = programs.join(name);
        fs::write(&path, &script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let ipamd = alone.ipamd(&[
        ("PATH", &path),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "geheim"),
        ("AWS_ENDPOINT_URL_EC2", &alone.fronts.ec2),
    ]);
    let printed = wait_until("nft to be run", || {
        fs::read_to_string(&began).map_err(|error| error.to_string())
    });

    ipamd.terminate();

    let hanging: u32 = printed.lines().next().unwrap().parse().unwrap();
    if Path::new(&format!("/proc/{hanging}")).exists() {
        signal(hanging, Signal::KILL);
    }
    let keys: Vec<&str> = printed.lines().filter(|line| line.starts_with("AWS_")).collect();
    assert_eq!(keys, [""; 0]);
}
