//! The contract in OpenAPI 3.1: made from the route table, served, and shown in a viewer.
//!
//! It owns the form of the document and the viewer's page. It declares nothing itself: what an operation is
//! stands in the route table ([`super::routes`]), what a type looks like stands at the type. The committed
//! `collector/openapi.json` is this document; a test compares them.

pub(super) mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    extract::{Path, State as Held},
    http::header,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};

use super::{
    State,
    access::Permission,
    error::{self, Problem, ProblemCode},
    routes::{Answer, Form, Operation, Param, Routes, Shape, Table},
};

/// Paths of the viewer's parts, beside the page itself.
const PARTS: [&str; 3] = ["swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"];
/// The viewer draws its arrows from `data:` pictures; nothing else is loosened, and only on its own page.
const VIEWER_POLICY: &str = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'";

pub(super) fn routes(routes: Routes) -> Routes {
    const P: Permission = Permission::Open;
    routes
        .tag("contract", "This document")
        .add(
            Operation::get("/api/openapi.json", P, "get_openapi")
                .about("The contract of this API, in OpenAPI 3.1")
                .answer::<words::Details>(200, "The document"),
            document,
        )
        .add(
            Operation::get("/api/docs", P, "get_docs").about("A page that shows the contract").answer_as(
                200,
                "text/html",
                "The page",
            ),
            page,
        )
        .add(
            Operation::get("/api/docs/{file}", P, "get_docs_file")
                .about("A part of that page")
                .path::<words::Id>("file", "Its name")
                .answer_as(200, "*/*", "The part")
                .gives(&[ProblemCode::NotFound]),
            part,
        )
}

async fn document(Held(state): Held<Arc<State>>) -> Response {
    let text = state.contract.get_or_init(|| String::from("{}")).clone();
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

async fn page() -> Response {
    let headers =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, VIEWER_POLICY)];
    (headers, include_str!("openapi/viewer.html")).into_response()
}

async fn part(Path(name): Path<String>) -> Result<Response, Problem> {
    let missing = || Problem::new(ProblemCode::NotFound, "the viewer has no such part");
    if name == "start.js" {
        let script = include_str!("openapi/start.js");
        return Ok(([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], script).into_response());
    }
    if !PARTS.contains(&name.as_str()) {
        return Err(missing());
    }
    let config = Arc::new(utoipa_swagger_ui::Config::from("openapi.json"));
    let file = utoipa_swagger_ui::serve(&name, config).ok().flatten().ok_or_else(missing)?;
    Ok(([(header::CONTENT_TYPE, file.content_type)], file.bytes.into_owned()).into_response())
}

/// The whole document. Its text depends on nothing but the code.
pub(super) fn contract(table: &Table) -> Value {
    let mut schemas = Schemas::default();
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for operation in &table.operations {
        let shown = schemas.operation(operation);
        paths.entry(operation.path.clone()).or_default().insert(operation.method.as_str().to_ascii_lowercase(), shown);
    }
    schemas.schemas.insert("Problem".into(), problem_schema());
    let tags: Vec<Value> = table.tags.iter().map(|tag| json!({"name": tag.name, "description": tag.about})).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Rollcall",
            "version": env!("CARGO_PKG_VERSION"),
            "description": include_str!("openapi/intro.md"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "This collector"}],
        "tags": tags,
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": schemas.schemas,
            "responses": schemas.problems,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A credential of this collector, in the Authorization header and nowhere else.",
                },
            },
        },
    })
}

/// What the document leans on, by name.
#[derive(Default)]
struct Schemas {
    schemas: BTreeMap<String, Value>,
    /// Most operations share their problems.
    problems: BTreeMap<String, Value>,
}

impl Schemas {
    fn operation(&mut self, operation: &Operation) -> Value {
        let mut shown = Map::new();
        shown.insert("operationId".into(), operation.id.clone().into());
        shown.insert("tags".into(), json!([operation.tag]));
        shown.insert("summary".into(), operation.summary.clone().into());
        if !operation.description.is_empty() {
            shown.insert("description".into(), operation.description.clone().into());
        }
        let parameters: Vec<Value> =
            [("path", &operation.path_params), ("query", &operation.query), ("header", &operation.headers)]
                .into_iter()
                .flat_map(|(place, params)| params.iter().map(move |param| parameter(place, param)))
                .collect();
        if !parameters.is_empty() {
            shown.insert("parameters".into(), parameters.into());
        }
        if let Some(body) = &operation.body {
            let schema = self.shape(body.shape);
            let content: Map<String, Value> =
                body.media.iter().map(|media| ((*media).to_owned(), json!({"schema": schema}))).collect();
            shown.insert("requestBody".into(), json!({"required": body.required, "content": content}));
        }
        let mut responses = Map::new();
        for answer in &operation.answers {
            let (status, answer) = (answer.status.to_string(), self.answer(answer));
            // One status may come in several media types.
            match responses.get_mut(&status).and_then(|shown| shown.get_mut("content")) {
                Some(content) => merge(content, answer.get("content")),
                None => {
                    responses.insert(status, answer);
                }
            }
        }
        let mut problems: BTreeMap<u16, BTreeSet<ProblemCode>> = BTreeMap::new();
        for code in operation.problems() {
            problems.entry(code.status().as_u16()).or_default().insert(code);
        }
        for (status, codes) in problems {
            let problem = problem(&codes);
            // An answer and a problem may share a status, as where a probe fails with its own document.
            match responses.get_mut(&status.to_string()).and_then(|shown| shown.get_mut("content")) {
                Some(content) => merge(content, problem.get("content")),
                None => {
                    let words: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
                    let name = format!("{status}.{}", words.join("."));
                    let reference = json!({"$ref": format!("#/components/responses/{name}")});
                    self.problems.insert(name, problem);
                    responses.insert(status.to_string(), reference);
                }
            }
        }
        let large = "The request's head has more than 16 KiB or 64 headers. No document: it was not read to its end";
        responses.insert("431".into(), json!({"description": large}));
        shown.insert("responses".into(), responses.into());
        if operation.permission == Permission::Open {
            shown.insert("security".into(), json!([]));
        }
        shown.insert("x-permission".into(), operation.permission.as_str().into());
        shown.into()
    }

    fn answer(&mut self, answer: &Answer) -> Value {
        let mut shown = json!({"description": answer.about});
        if let Some((media, shape)) = answer.content {
            let content = match shape {
                Some(shape) if answer.selected => {
                    let less = json!({"type": "object", "description": "With `fields`: the picked members only"});
                    json!({"schema": {"anyOf": [self.shape(shape), less]}})
                }
                Some(shape) => json!({"schema": self.shape(shape)}),
                None => json!({}),
            };
            merge(&mut shown, Some(&json!({"content": {media: content}})));
        }
        shown
    }

    /// A reference to a shape; the shape and all that it leans on are noted.
    fn shape(&mut self, shape: Shape) -> Value {
        let name = (shape.name)().into_owned();
        let mut found = vec![(name.clone(), (shape.schema)())];
        (shape.more)(&mut found);
        for (name, schema) in found {
            self.schemas.insert(name, plain(&schema));
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }
}

fn plain(schema: &RefOr<Schema>) -> Value {
    serde_json::to_value(schema).unwrap_or_default()
}

fn parameter(place: &str, param: &Param) -> Value {
    let one = plain(&(param.schema)());
    let mut shown = json!({
        "name": param.name,
        "in": place,
        "required": param.required,
        "description": param.about,
        "schema": match param.form {
            Form::One => one,
            Form::List | Form::Each => json!({"type": "array", "items": one, "minItems": 1}),
        },
    });
    let explode = match param.form {
        Form::One => None,
        Form::List => Some(false),
        Form::Each => Some(true),
    };
    if let Some(explode) = explode {
        merge(&mut shown, Some(&json!({"style": "form", "explode": explode})));
    }
    shown
}

fn problem(codes: &BTreeSet<ProblemCode>) -> Value {
    let told: Vec<String> = codes.iter().map(|code| format!("`{}`: {}", code.as_str(), code.title())).collect();
    let words: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    let schema = json!({
        "allOf": [
            {"$ref": "#/components/schemas/Problem"},
            {"properties": {"code": {"enum": words}}},
        ],
    });
    json!({"description": told.join("; "), "content": {error::MEDIA_TYPE: {"schema": schema}}})
}

fn problem_schema() -> Value {
    let words: Vec<&str> = ProblemCode::ALL.iter().map(|code| code.as_str()).collect();
    json!({
        "type": "object",
        "description": "Why a request did not pass (RFC 9457). Further members depend on the code.",
        "required": ["type", "title", "status", "detail", "code", "request_id"],
        "properties": {
            "type": {"type": "string", "description": "The code, as a URN"},
            "title": {"type": "string", "description": "The same for every occurrence"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string", "description": "What is particular to this occurrence, and the fix"},
            "code": {"type": "string", "enum": words, "description": "Stable; programs look at this"},
            "request_id": {"type": "string", "description": "For the log and the audit trail"},
        },
    })
}

fn merge(into: &mut Value, from: Option<&Value>) {
    if let (Value::Object(into), Some(Value::Object(from))) = (into, from) {
        into.extend(from.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
}

#[cfg(test)]
mod tests;
