//! A lab of a user beside what another user left.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};

use crate::support::printed;
use crate::user::User;

#[test]
fn what_others_could_have_written_is_not_trusted() {
    type Plant = fn(&User);
    let cases: [(&str, Plant, &str); 5] = [
        (
            "another user's folder",
            |user| fs::create_dir(user.labs()).unwrap(),
            "not this user's alone",
        ),
        (
            "a folder for everyone",
            |user| {
                own_folder(user);
                fs::set_permissions(user.labs(), Permissions::from_mode(0o777)).unwrap();
            },
            "not this user's alone",
        ),
        ("a link to a folder", |user| symlink(user.runtime(), user.labs()).unwrap(), "open "),
        (
            "another user's file",
            |user| {
                own_folder(user);
                fs::write(user.labs().join("planted"), r#"{"pid":1}"#).unwrap();
                fs::set_permissions(user.labs().join("planted"), Permissions::from_mode(0o666))
                    .unwrap();
            },
            "not this user's alone",
        ),
        (
            "a link to a file",
            |user| {
                own_folder(user);
                fs::write(user.runtime().join("precious"), "precious").unwrap();
                user.own(&user.runtime().join("precious"));
                symlink(user.runtime().join("precious"), user.labs().join("planted")).unwrap();
            },
            "open ",
        ),
    ];
    for (case, plant, expected) in cases {
        let user = User::new();
        plant(&user);
        for command in
            [&["exec", "--name", "planted", "node", "--", "true"][..], &["up", "--name", "planted"]]
        {
            let output = user.vpc_ipam().arg("lab").args(command).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{case}: {}", printed(&output));
            assert!(printed(&output).contains(expected), "{case}: {}", printed(&output));
        }
        if let Ok(precious) = fs::read_to_string(user.runtime().join("precious")) {
            assert_eq!(precious, "precious", "{case}");
        }
    }

    fn own_folder(user: &User) {
        fs::create_dir(user.labs()).unwrap();
        user.own(&user.labs());
    }
}
