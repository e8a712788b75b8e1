//! The controller, driven through its regions as a guest drives it.

mod cdrom;
mod disk;
mod doorbells;
mod hostile;
mod libata;
mod medium;
mod requests;
mod rig;
