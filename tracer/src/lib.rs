//! pkttrace: follows packets through a container node's network, hop by hop.

pub mod bpf;
pub mod cli;
pub mod kernel;
pub mod lab;
pub mod net;
