//! boto3 against the emulator: a client that knows EC2 from AWS's own model.

use core::time::Duration;

use crate::lab::Lab;
use crate::python;

#[tokio::test]
async fn boto3_takes_the_emulator_for_ec2() {
    let lab = Lab::new();
    let mut script = python::script("boto3_client.py");
    script.args([
        lab.ec2.url().as_str(),
        lab.instance.as_str(),
        lab.node.subnet.as_str(),
        lab.tiny.as_str(),
    ]);

    let run = tokio::time::timeout(Duration::from_secs(120), script.output());

    let output = run.await.expect("it takes seconds").unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "done");
    let left = lab.cloud.with(|cloud, _| cloud.interfaces().count());
    assert_eq!(left, 1, "the primary ENI alone");
}
