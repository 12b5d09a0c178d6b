//! Where events come from. Today from this kernel; recordings will be read through the same form.

mod capture;
mod coverage;
mod entrances;
mod live;
mod routes;
mod rules;
mod stages;
mod translations;

pub use capture::{Capture, Captured};
pub use live::{Drained, Live, Setup};
pub(crate) use live::{check_names, find_service};
pub use stages::Switch;
