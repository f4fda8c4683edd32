//! The variables and files that all SDKs of AWS know, in a namespace with loopback alone.

use std::fs;

use crate::alone::{Alone, Witness};

const KEYS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", "AKIDOFVARIABLES"), ("AWS_SECRET_ACCESS_KEY", "secret")];

#[test]
fn endpoint_of_ec2_is_the_one_that_variables_name() {
    for name in ["AWS_EC2_ENDPOINT", "AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL"] {
        let alone = Alone::new();
        let endpoint = (name, alone.fronts.ec2.as_str());
        let ipamd = alone.ipamd(&[KEYS[0], KEYS[1], endpoint]);
        ipamd.wait_until_ready();
        ipamd.terminate();
    }
}

#[test]
fn endpoint_of_the_operation_comes_before_that_of_all_services() {
    let alone = Alone::new();
    let witness = Witness::new(&alone.netns);
    let ipamd = alone.ipamd(&[
        KEYS[0],
        KEYS[1],
        ("AWS_ENDPOINT_URL", &witness.url),
        ("AWS_ENDPOINT_URL_EC2", &alone.fronts.ec2),
    ]);
    ipamd.wait_until_ready();
    assert_eq!(witness.heads(), [""; 0]);
    ipamd.terminate();
}

#[test]
fn endpoint_that_is_empty_is_none() {
    for empty in ["AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL"] {
        let other = match empty {
            "AWS_ENDPOINT_URL" => "AWS_ENDPOINT_URL_EC2",
            _ => "AWS_ENDPOINT_URL",
        };
        let alone = Alone::new();
        let endpoint = (other, alone.fronts.ec2.as_str());
        let ipamd = alone.ipamd(&[KEYS[0], KEYS[1], (empty, ""), endpoint]);
        ipamd.wait_until_ready();
        ipamd.terminate();
    }
    // With none at all it is AWS's own.
    let alone = Alone::new();
    let witness = Witness::new(&alone.netns);
    let proxy = ("HTTPS_PROXY", witness.url.as_str());
    let ipamd = alone.ipamd(&[
        KEYS[0],
        KEYS[1],
        ("AWS_ENDPOINT_URL_EC2", ""),
        ("AWS_ENDPOINT_URL", ""),
        proxy,
    ]);
    let head = witness.wait_for("CONNECT ", &ipamd);
    assert!(head.starts_with("CONNECT ec2.eu-west-1.amazonaws.com:443 "), "{head}");
    ipamd.terminate();
}

#[test]
fn region_is_that_of_the_option_or_of_variables_or_of_the_instance() {
    // What is set, and the region for which a request is signed.
    let cases: [(&[(&str, &str)], &str); 5] = [
        (&[("AWS_REGION", "eu-south-8"), ("AWS_DEFAULT_REGION", "eu-south-9")], "eu-south-8"),
        (&[("AWS_DEFAULT_REGION", "eu-south-9")], "eu-south-9"),
        (&[("AWS_REGION", ""), ("AWS_DEFAULT_REGION", "eu-south-9")], "eu-south-9"),
        (&[], "eu-west-1"),
        (
            &[("AWS_REGION", ""), ("AWS_ENDPOINT_URL", ""), ("AWS_USE_FIPS_ENDPOINT", "")],
            "eu-west-1",
        ),
    ];
    for (vars, region) in cases {
        let alone = Alone::new();
        let witness = Witness::new(&alone.netns);
        let endpoint = ("AWS_ENDPOINT_URL_EC2", witness.url.as_str());
        let ipamd = alone.ipamd(&[&[KEYS[0], KEYS[1], endpoint], vars].concat());
        let head = witness.wait_for("Credential=", &ipamd);
        assert!(head.contains("Credential=AKIDOFVARIABLES/"), "{vars:?}: {head}");
        assert!(head.contains(&format!("/{region}/ec2/aws4_request")), "{vars:?}: {head}");
        ipamd.terminate();
    }
}

#[test]
fn profile_files_name_keys_region_and_endpoint() {
    let alone = Alone::new();
    let witness = Witness::new(&alone.netns);
    let path = |name: &str| alone.folder.path().join(name).display().to_string();
    let (config, credentials) = (path("config"), path("credentials"));
    let services = format!("[services local]\nec2 =\n  endpoint_url = {}\n", witness.url);
    let profile = "[profile node]\nregion = eu-south-9\nservices = local\n";
    fs::write(&config, format!("{profile}{services}")).unwrap();
    let keys = "aws_access_key_id = AKIDOFFILE\naws_secret_access_key = secret\n";
    fs::write(&credentials, format!("[node]\n{keys}")).unwrap();

    let ipamd = alone.ipamd(&[
        ("AWS_PROFILE", "node"),
        ("AWS_CONFIG_FILE", &config),
        ("AWS_SHARED_CREDENTIALS_FILE", &credentials),
    ]);

    let head = witness.wait_for("Credential=", &ipamd);
    assert!(head.contains("Credential=AKIDOFFILE/"), "{head}");
    assert!(head.contains("/eu-south-9/ec2/aws4_request"), "{head}");
    ipamd.terminate();
}

#[test]
fn kind_of_the_endpoint_and_the_proxy_are_those_of_variables() {
    // What is set, and what the proxy is asked to reach.
    let cases: [(&[(&str, &str)], &str); 4] = [
        (&[], "ec2.eu-west-1.amazonaws.com:443"),
        (
            &[("AWS_USE_FIPS_ENDPOINT", "true"), ("AWS_REGION", "us-east-2")],
            "ec2-fips.us-east-2.amazonaws.com:443",
        ),
        (&[("AWS_USE_DUALSTACK_ENDPOINT", "true")], "ec2.eu-west-1.api.aws:443"),
        (&[("NO_PROXY", "example.com,10.0.0.0/8")], "ec2.eu-west-1.amazonaws.com:443"),
    ];
    for (vars, expected) in cases {
        let alone = Alone::new();
        let witness = Witness::new(&alone.netns);
        let proxy = ("HTTPS_PROXY", witness.url.as_str());
        let ipamd = alone.ipamd(&[&[KEYS[0], KEYS[1], proxy], vars].concat());
        let head = witness.wait_for("CONNECT ", &ipamd);
        assert!(head.starts_with(&format!("CONNECT {expected} ")), "{vars:?}: {head}");
        ipamd.terminate();
    }
}

/// Names are not looked up in a namespace that reaches nothing, so that a call without a proxy fails.
#[test]
fn what_no_proxy_names_is_reached_without() {
    let alone = Alone::new();
    let witness = Witness::new(&alone.netns);
    let ipamd = alone.ipamd(&[
        KEYS[0],
        KEYS[1],
        ("HTTPS_PROXY", &witness.url),
        ("NO_PROXY", ".amazonaws.com"),
    ]);
    ipamd.wait_until_it_says("action failed");
    assert_eq!(witness.heads(), [""; 0], "{}", ipamd.said());
    ipamd.terminate();
}

/// The metadata service is on loopback here; at its own address it is on the link, where no proxy is asked in any case.
#[test]
fn metadata_are_read_without_a_proxy_and_ec2_over_http_with_one() {
    let alone = Alone::new();
    let witness = Witness::new(&alone.netns);
    let ipamd = alone.ipamd(&[
        KEYS[0],
        KEYS[1],
        ("HTTP_PROXY", &witness.url),
        ("AWS_ENDPOINT_URL_EC2", "http://ec2.example.com:8080"),
    ]);
    let head = witness.wait_for("POST ", &ipamd);
    assert!(head.starts_with("POST http://ec2.example.com:8080/ "), "{head}");
    assert!(ipamd.said().contains("serving"), "{}", ipamd.said());
    let of_imds = |head: &String| head.contains("latest/");
    assert!(!witness.heads().iter().any(of_imds), "{:?}", witness.heads());
    ipamd.terminate();
}

#[test]
fn proxy_that_cannot_be_used_is_named_without_its_password() {
    let alone = Alone::new();
    let ipamd = alone.ipamd(&[
        KEYS[0],
        KEYS[1],
        ("HTTPS_PROXY", "socks5://user:geheim@proxy.example.com:1080"),
        ("AWS_ENDPOINT_URL_EC2", &alone.fronts.ec2),
    ]);
    let said = ipamd.wait_until_it_says("HTTPS_PROXY names no proxy");
    ipamd.wait_until_ready();
    assert!(!said.contains("geheim"), "{said}");
    ipamd.terminate();
}

#[test]
fn role_of_the_instance_gives_credentials() {
    let alone = Alone::new();
    let witness = Witness::new(&alone.netns);
    let ipamd = alone.ipamd(&[("AWS_ENDPOINT_URL_EC2", &witness.url)]);
    let head = witness.wait_for("Credential=", &ipamd);
    assert!(head.contains("Credential=emulator/"), "{head}");
    ipamd.terminate();
}

#[test]
fn missing_credentials_are_told_with_what_to_do() {
    let alone = Alone::new();
    let ipamd = alone.ipamd(&[
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_ENDPOINT_URL_EC2", &alone.fronts.ec2),
    ]);
    let said = ipamd.wait_until_it_says("there are no credentials");
    let line = said.lines().find(|line| line.contains("there are no credentials")).unwrap();
    for expected in ["not allowed", "attach a role to the instance", "AWS_PROFILE"] {
        assert!(line.contains(expected), "{expected:?} is not in {line}");
    }
    ipamd.terminate();
}

#[test]
fn shared_file_that_is_a_fifo_delays_nothing() {
    let alone = Alone::new();
    let fifo = alone.folder.path().join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).unwrap();
    let ipamd = alone.ipamd(&[("AWS_CONFIG_FILE", fifo.to_str().unwrap())]);
    let said = ipamd.wait_until_it_says("is a FIFO");
    assert!(said.contains(fifo.to_str().unwrap()), "{said}");
}
