//! Entry points, one file per backend.

mod cg;
mod drops;
mod func;
mod latency;
mod nf;
mod retransmit;
mod tc;
mod tp;
