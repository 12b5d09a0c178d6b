//! Ready labs.
