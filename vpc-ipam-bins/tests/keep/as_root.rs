//! What takes root of the machine, with a second user: `scripts/test.sh` leaves it out for users who are not root, and says so.

mod hostile;
