//! What the fuzz targets do with their bytes, one room for each crate whose decoders they feed.

pub mod feeds {
    //! Each file is included by an ordinary test of its crate too.

    pub mod collector;
    pub mod common;
}
