//! The egress plugin, where it is off: it passes on what the plugin before it came to.

use std::process::ExitCode;

use serde_json::Value;

pub(crate) fn main() -> ExitCode {
    let config: Value = match serde_json::from_reader(std::io::stdin()) {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string()),
    };
    if config["enabled"] == "true" {
        return fail("the stand-in gives pods no address of the other family");
    }
    match std::env::var("CNI_COMMAND").as_deref() {
        Ok("ADD") if config["prevResult"].is_null() => fail("must be called as chained plugin"),
        Ok("ADD") => {
            println!("{}", config["prevResult"]);
            ExitCode::SUCCESS
        }
        _ => ExitCode::SUCCESS,
    }
}

fn fail(message: &str) -> ExitCode {
    println!("{}", serde_json::json!({"code": 999, "msg": message}));
    ExitCode::FAILURE
}
