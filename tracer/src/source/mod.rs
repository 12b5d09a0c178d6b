//! Where events come from. Today from this kernel; recordings will be read through the same form.

mod live;

pub use live::{Live, Setup};
