//! Settings from the collector to sidecars and back, over restarts of either.

mod peers;
mod real;
