//! What takes root of the machine, with containers or a second user: `scripts/test.sh` leaves it out for users who are not root, and
//! says so.

mod containerd;
mod fault_points;
mod migrated;
mod podman;
mod soak;
mod users;
