//! Entry points, one file per backend.

mod cg;
mod drops;
mod func;
mod latency;
mod nf;
mod tc;
mod tp;
