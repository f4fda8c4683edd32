//! What takes root of the machine, with containers or more users than one: `scripts/test.sh` leaves it out for others, and says
//! so.

mod containerd;
mod users;
