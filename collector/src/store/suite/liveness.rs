//! The promises of [`LivenessStore`].
pub async fn liveness_suite() {}
