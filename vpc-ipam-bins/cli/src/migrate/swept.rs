//! Pods that went while no daemon was there to see to their rules: a list that the next run sweeps.

use core::net::IpAddr;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use vpc_ipam_linux::{Netlink, sweep_rules};

use super::durable::{self, FileError};
use super::step::StepError;

fn path_in(folder: &Path) -> PathBuf {
    folder.join("deleted.json")
}

/// Returns the addresses on the list.
fn read(folder: &Path) -> Result<BTreeSet<IpAddr>, StepError> {
    Ok(match durable::read(&path_in(folder))? {
        Some(text) => serde_json::from_slice(&text)?,
        None => BTreeSet::new(),
    })
}

/// Puts addresses on the list.
pub(crate) fn add(folder: &Path, gone: &[IpAddr]) -> Result<(), StepError> {
    if gone.is_empty() {
        return Ok(());
    }
    let mut all = read(folder)?;
    all.extend(gone);
    Ok(write(folder, &all)?)
}

/// Removes the rules of the pods on the list that are still gone, and empties it. Returns how many rules that were.
pub(crate) fn sweep(folder: &Path, netlink: &mut dyn Netlink) -> Result<usize, StepError> {
    let all = read(folder)?;
    if all.is_empty() {
        return Ok(0);
    }
    let swept = sweep_rules(netlink, &all)?;
    durable::remove(&path_in(folder))?;
    Ok(swept)
}

fn write(folder: &Path, all: &BTreeSet<IpAddr>) -> Result<(), FileError> {
    let text = serde_json::to_vec(all).expect("addresses are written as text");
    durable::write(&path_in(folder), &text, 0o600)
}
