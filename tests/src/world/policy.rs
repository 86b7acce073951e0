//! What a token should allow, as the API wants to hear it.

use std::time::Duration;

use rollcall_common::{
    id::Kind,
    time::{Clock as _, SystemClock},
};
use serde_json::{Map, Value, json};

/// A token's policy on its way to the API; all that is not said is left to the collector's defaults.
#[derive(Debug, Clone)]
pub struct Policy(Map<String, Value>);

impl Policy {
    /// For one service with exactly this id.
    #[must_use]
    pub fn fixed(kind: Kind, id: &str) -> Self {
        Self::of(kind).set("id", json!(id))
    }

    /// For services whose ids begin so.
    #[must_use]
    pub fn prefix(kind: Kind, prefix: &str) -> Self {
        Self::of(kind).set("id_prefix", json!(prefix))
    }

    /// For one service whose id the collector makes up.
    #[must_use]
    pub fn assigned(kind: Kind) -> Self {
        Self::of(kind)
    }

    fn of(kind: Kind) -> Self {
        Self(Map::new()).set("kind", json!(kind)).set("local", json!(true))
    }

    /// Under this parent.
    #[must_use]
    pub fn under(self, parent: &str) -> Self {
        self.set("parent", json!(parent))
    }

    /// For so many keys.
    #[must_use]
    pub fn uses(self, max_uses: u32) -> Self {
        self.set("max_uses", json!(max_uses))
    }

    /// Ends so long from now.
    #[must_use]
    pub fn for_time(self, life: Duration) -> Self {
        let end = SystemClock.now().wall.after(life);
        self.set("expires_at", json!(end.to_string()))
    }

    /// Begins so long from now.
    #[must_use]
    pub fn begins_in(self, wait: Duration) -> Self {
        let begin = SystemClock.now().wall.after(wait);
        self.set("not_before", json!(begin.to_string()))
    }

    /// From these addresses only.
    #[must_use]
    pub fn from(self, range: &str) -> Self {
        self.set("cidr_allow", json!([range]))
    }

    /// So many rejoins.
    #[must_use]
    pub fn rejoins(self, limit: u32) -> Self {
        self.set("rejoin_limit", json!(limit))
    }

    /// Whose sidecars may register unknown children.
    #[must_use]
    pub fn implicit_children(self) -> Self {
        self.set("implicit_children", json!(true))
    }

    /// Whose enrollments an operator decides on.
    #[must_use]
    pub fn manual(self) -> Self {
        self.set("approval", json!("manual"))
    }

    fn set(mut self, name: &str, value: Value) -> Self {
        self.0.insert(name.into(), value);
        self
    }

    /// The request's body.
    #[must_use]
    pub fn body(self) -> Value {
        Value::Object(self.0)
    }
}
