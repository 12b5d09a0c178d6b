//! Entry points, one file per backend.

mod cg;
mod func;
mod nf;
mod tc;
mod tp;
