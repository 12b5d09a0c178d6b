//! Entry points, one file per backend.

mod cg;
mod nf;
mod tc;
mod tp;
