//! `[[oidc]]`: the identity providers whose tokens are taken. A table each; only files can set them.
//!
//! ```toml
//! [[oidc]]
//! name = "corp"
//! issuer = "https://idp.example.net/realms/fleet"
//! audience = "rollcall"
//! roles_claim = "realm_access.roles"
//! roles = { fleet-admins = "admin", fleet-ops = "operator", staff = "viewer" }
//! roles_allowed = ["viewer", "operator", "admin"]
//! scope_claim = "sites"
//! scopes = { north = "site in (1,2)", south = "site=3" }
//! ```

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
};

use rollcall_common::id::ServiceId;
use toml::de::{DeTable, DeValue};

use super::layers::{ConfigError, Origin};
use crate::{
    http::{
        access::{Role, Roles},
        oidc::{ClaimPath, Issuer},
    },
    scope::Scope,
};

/// Most issuers.
const MAX_ISSUERS: usize = 16;
/// Most words that one issuer maps.
const MAX_WORDS: usize = 256;
const KEYS: &str = "name, issuer, audience, roles_claim, roles, roles_allowed, scope_claim, scopes, scope, ca_file, \
                    insecure_loopback";

/// The issuers of one `oidc` value.
pub(super) fn read(
    value: &DeValue<'_>,
    at: &Origin,
    line: &dyn Fn(usize) -> usize,
    path: &Path,
    errors: &mut Vec<ConfigError>,
) -> Vec<(Issuer, Origin)> {
    let DeValue::Array(tables) = value else {
        errors.push(ConfigError {
            origin: at.clone(),
            key: "oidc".into(),
            why: "must be tables: write [[oidc]]".into(),
        });
        return Vec::new();
    };
    let mut found = Vec::new();
    for table in tables {
        let origin = Origin::File(path.into(), line(table.span().start));
        let DeValue::Table(inner) = table.get_ref() else {
            errors.push(ConfigError { origin, key: "oidc".into(), why: "must be tables: write [[oidc]]".into() });
            continue;
        };
        let mut reading = Reading { table: inner, line, path, origin: &origin, errors: &mut *errors };
        if let Some(issuer) = reading.issuer() {
            found.push((issuer, origin));
        }
    }
    found
}

/// Checks all issuers together.
pub(super) fn together(issuers: &[(Issuer, Origin)]) -> Vec<ConfigError> {
    let (mut names, mut urls) = (HashSet::new(), HashSet::new());
    let wrong = |origin: &Origin, why: String| ConfigError { origin: origin.clone(), key: "oidc".into(), why };
    let mut errors = Vec::new();
    for (issuer, origin) in issuers {
        if !names.insert(&issuer.name) {
            errors.push(wrong(origin, format!("the name {:?} is taken by another issuer", issuer.name)));
        }
        if !urls.insert(&issuer.issuer) {
            errors.push(wrong(origin, format!("{:?} is configured twice", issuer.issuer)));
        }
    }
    if let Some((_, origin)) = issuers.get(MAX_ISSUERS) {
        errors.push(wrong(origin, format!("at most {MAX_ISSUERS} issuers are taken")));
    }
    errors
}

struct Reading<'a, 'd> {
    table: &'a DeTable<'d>,
    line: &'a dyn Fn(usize) -> usize,
    path: &'a Path,
    origin: &'a Origin,
    errors: &'a mut Vec<ConfigError>,
}

impl Reading<'_, '_> {
    fn issuer(&mut self) -> Option<Issuer> {
        let before = self.errors.len();
        for (name, _) in self.table {
            let name = name.get_ref().as_ref();
            if !KEYS.split(", ").any(|known| known == name) {
                self.wrong(name, format!("unknown key; known are {KEYS}"));
            }
        }
        let insecure_loopback = self.flag("insecure_loopback");
        let name = self.needed("name");
        if name.as_ref().is_some_and(|name| name.parse::<ServiceId>().is_err()) {
            self.wrong("name", "use 1 to 64 of a-z 0-9 . _ -".into());
        }
        let issuer = self.needed("issuer");
        if let Some(Err(error)) = issuer.as_deref().map(|url| crate::http::oidc::check_address(url, insecure_loopback))
        {
            self.wrong("issuer", error.to_string());
        }
        let audience = self.needed("audience");
        let roles_claim = self.needed("roles_claim").and_then(|text| self.path_of("roles_claim", &text));
        let roles: BTreeMap<String, Role> = self.map("roles", &role);
        if roles.is_empty() && !self.has("roles") {
            self.wrong(
                "roles",
                "is missing: say what the words of roles_claim give, as in { ops = \"operator\" }".into(),
            );
        }
        let roles_allowed = self.roles_allowed();
        let scope_claim = self.text("scope_claim").and_then(|text| self.path_of("scope_claim", &text));
        let scopes: BTreeMap<String, Scope> =
            self.map("scopes", &|text| text.parse::<Scope>().map_err(|error| error.to_string()));
        if scope_claim.is_some() == scopes.is_empty() {
            self.wrong("scopes", "scope_claim and scopes go together".into());
        }
        let scope = self.text("scope").map(|text| text.parse::<Scope>());
        let scope = match scope {
            Some(Err(error)) => {
                self.wrong("scope", error.to_string());
                None
            }
            Some(Ok(scope)) => Some(scope),
            None => None,
        };
        let ca_file = self.text("ca_file").map(PathBuf::from);
        if ca_file.as_ref().is_some_and(|path| !path.is_absolute()) {
            self.wrong("ca_file", "must be an absolute path".into());
        }
        if self.errors.len() > before {
            return None;
        }
        Some(Issuer {
            name: name?,
            issuer: issuer?,
            audience: audience?,
            roles_claim: roles_claim?,
            roles,
            roles_allowed,
            scope_claim,
            scopes,
            scope: scope.unwrap_or_default(),
            ca_file,
            insecure_loopback,
        })
    }

    /// An issuer that is not said to may not make administrators.
    fn roles_allowed(&mut self) -> Roles {
        let modest = Roles::from_iter([Role::Viewer, Role::Operator, Role::Metrics]);
        let Some(value) = self.table.get("roles_allowed") else { return modest };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong("roles_allowed", "must be a list of texts".into());
            return modest;
        };
        let words: Vec<Option<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
        let mut all = Vec::new();
        for word in words {
            match word.ok_or_else(|| "must be a list of texts".to_owned()).and_then(role) {
                Ok(role) => all.push(role),
                Err(why) => self.wrong("roles_allowed", why),
            }
        }
        all.into_iter().collect()
    }

    fn has(&self, key: &str) -> bool {
        self.table.get(key).is_some()
    }

    fn text(&mut self, key: &str) -> Option<String> {
        match self.table.get(key)?.get_ref().as_str() {
            Some(text) if !text.is_empty() => Some(text.to_owned()),
            Some(_) | None => {
                self.wrong(key, "must be a text in quotes".into());
                None
            }
        }
    }

    fn needed(&mut self, key: &str) -> Option<String> {
        if !self.has(key) {
            self.wrong(key, "is missing".into());
            return None;
        }
        self.text(key)
    }

    fn flag(&mut self, key: &str) -> bool {
        match self.table.get(key).map(|value| value.get_ref().as_bool()) {
            None => false,
            Some(Some(flag)) => flag,
            Some(None) => {
                self.wrong(key, "must be true or false".into());
                false
            }
        }
    }

    fn path_of(&mut self, key: &str, text: &str) -> Option<ClaimPath> {
        match ClaimPath::new(text) {
            Ok(path) => Some(path),
            Err(why) => {
                self.wrong(key, why.into());
                None
            }
        }
    }

    fn map<T>(&mut self, key: &str, parse: &dyn Fn(&str) -> Result<T, String>) -> BTreeMap<String, T> {
        let Some(value) = self.table.get(key) else { return BTreeMap::new() };
        let DeValue::Table(inner) = value.get_ref() else {
            self.wrong(key, "must be a table of texts, as in { word = \"…\" }".into());
            return BTreeMap::new();
        };
        if inner.len() > MAX_WORDS {
            self.wrong(key, format!("maps at most {MAX_WORDS} words"));
        }
        let mut all = BTreeMap::new();
        for (name, value) in inner.iter().take(MAX_WORDS) {
            let text = value.get_ref().as_str().ok_or_else(|| "must be a text in quotes".to_owned());
            match text.and_then(parse) {
                Ok(parsed) => {
                    all.insert(name.get_ref().to_string(), parsed);
                }
                Err(why) => self.wrong(&format!("{key}.{}", name.get_ref()), why),
            }
        }
        all
    }

    fn wrong(&mut self, key: &str, why: String) {
        let origin = match self.table.iter().find(|(name, _)| name.get_ref() == key) {
            Some((name, _)) => Origin::File(self.path.into(), (self.line)(name.span().start)),
            None => self.origin.clone(),
        };
        self.errors.push(ConfigError { origin, key: format!("oidc.{key}"), why });
    }
}

/// A role that a claim may give.
fn role(word: &str) -> Result<Role, String> {
    let found = Role::ALL.into_iter().find(|role| role.as_str() == word && *role != Role::Enroller);
    found.ok_or_else(|| format!("{word:?} is no role that a claim can give: use viewer, operator, admin or metrics"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Vec<(Issuer, Origin)>, Vec<String>) {
        let table = DeTable::parse(text).unwrap();
        let value = table.get_ref().get("oidc").unwrap();
        let mut errors = Vec::new();
        let line = |at: usize| text.bytes().take(at).filter(|b| *b == b'\n').count() + 1;
        let found = read(value.get_ref(), &Origin::Default, &line, Path::new("c.toml"), &mut errors);
        errors.extend(together(&found));
        (found, errors.iter().map(ToString::to_string).collect())
    }

    const GOOD: &str = "[[oidc]]\nname = \"corp\"\nissuer = \"https://idp.example\"\naudience = \"rollcall\"\n\
                        roles_claim = \"realm_access.roles\"\nroles = { \"fleet.ops\" = \"operator\", boss = \"admin\" }\n";

    #[test]
    fn an_issuer_is_read_and_gives_no_administrators_unless_told() {
        let (found, errors) = parse(GOOD);
        assert_eq!(errors, Vec::<String>::new());
        let issuer = &found[0].0;
        assert_eq!(issuer.roles["fleet.ops"], Role::Operator);
        assert!(!issuer.roles_allowed.has(Role::Admin) && issuer.roles_allowed.has(Role::Operator));
        let (found, _) = parse(&format!(
            "{GOOD}roles_allowed = [\"admin\"]\nscope_claim = \"sites\"\nscopes = {{ n = \"site in (1,2)\" }}\n"
        ));
        assert!(found[0].0.roles_allowed.has(Role::Admin) && !found[0].0.roles_allowed.has(Role::Viewer));
        assert_eq!(found[0].0.scopes["n"].to_string(), "site in (1,2)");
    }

    #[test]
    fn what_is_wrong_names_line_and_key() {
        for (change, expected) in [
            (
                ("https://idp.example", "http://idp.example"),
                "c.toml:3: oidc.issuer: \"http://idp.example\" is not allowed: it must be https",
            ),
            (("operator", "root"), "oidc.roles.fleet.ops: \"root\" is no role"),
            (("operator", "enroller"), "\"enroller\" is no role that a claim can give"),
            (("audience", "audiences"), "oidc.audience: is missing"),
            (("\"corp\"", "\"Corp\\u001b\""), "c.toml:2: oidc.name: use 1 to 64"),
            (("\"realm_access.roles\"", "\"a..b\""), "oidc.roles_claim: must name a claim"),
            (("roles = {", "scope_claim = \"x\"\nroles = {"), "scope_claim and scopes go together"),
        ] {
            let (_, errors) = parse(&GOOD.replacen(change.0, change.1, 1));
            assert!(errors.iter().any(|error| error.contains(expected)), "{change:?}: {errors:?}");
        }
        let (_, errors) = parse(&format!("{GOOD}{GOOD}"));
        assert_eq!(errors.len(), 2, "{errors:?}");
        let (_, errors) = parse("oidc = \"https://idp.example\"");
        assert!(errors[0].contains("write [[oidc]]"), "{errors:?}");
    }
}
