//! The AWS SDK against moto: a second opinion on the wire format, by people who model all of AWS.

use core::time::Duration;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout};
use vpc_ipam_aws::SdkEc2;
use vpc_ipam_core::Node;

use crate::python;
use crate::sdk;
use crate::sequence::{Knows, life_of_an_eni};

#[tokio::test]
async fn an_eni_lives_in_moto() {
    let moto = Moto::start().await;
    let api = SdkEc2::connect(sdk::options(&moto.url, None)).await.unwrap();
    // moto takes these parameters without heeding them, and answers to assigning with all that the ENI has.
    let knows = Knows {
        client_tokens: false,
        delete_on_termination: false,
        free_addresses: false,
        assigned_alone: false,
    };
    life_of_an_eni(&api, &moto.node, knows).await;
}

/// A moto server with one instance in it. It ends when this does: the handle kills it, and it ends by itself once its
/// standard input is closed.
pub struct Moto {
    pub url: String,
    pub node: Node,
    _server: Child,
}

impl Moto {
    pub async fn start() -> Self {
        let mut server = python::script("moto_server.py")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        let mut line = async |what: &str| match next_line(&mut lines).await {
            Some(line) => line,
            None => panic!("moto ended before it said {what}"),
        };
        Self {
            url: line("its URL").await,
            node: Node::new(
                line("an instance").await.parse().unwrap(),
                line("its type").await.parse().unwrap(),
                line("its zone").await.parse().unwrap(),
                line("its VPC").await.parse().unwrap(),
                line("its primary ENI").await.parse().unwrap(),
                line("its subnet").await.parse().unwrap(),
            ),
            _server: server,
        }
    }
}

async fn next_line(lines: &mut tokio::io::Lines<BufReader<ChildStdout>>) -> Option<String> {
    // Loading moto takes seconds on a busy machine.
    let line = tokio::time::timeout(Duration::from_secs(120), lines.next_line());
    line.await.expect("moto starts in two minutes").unwrap()
}
