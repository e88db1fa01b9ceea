//! Error answers, as Kubernetes' `Status`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::server::query::{self, QueryError};
use crate::store::StoreError;

#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Refusal {
    pub code: StatusCode,
    /// One of Kubernetes' reasons: clients act on it.
    pub reason: &'static str,
    pub message: String,
    /// After how many seconds to retry.
    pub retry_after_seconds: Option<u32>,
}

impl Refusal {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), retry_after_seconds: None }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    pub fn not_acceptable() -> Self {
        let message = "only application/json is answered, also as Table or PartialObjectMetadata";
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    pub fn method_not_allowed() -> Self {
        let message = "the past is read only: the verbs are get, list and watch";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    pub fn is_expired(&self) -> bool {
        self.code == StatusCode::GONE
    }

    pub fn too_many() -> Self {
        let message = "too many questions at once: ask again in a second";
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        Self { retry_after_seconds: Some(1), ..refusal }
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message);
        Self { retry_after_seconds: Some(1), ..refusal }
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code.as_u16(),
        });
        if let Some(seconds) = self.retry_after_seconds {
            status["details"] = json!({"retryAfterSeconds": seconds});
        }
        status
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Compacted { .. } | StoreError::NotKept { .. } | StoreError::TooEarly { .. } => {
                Self::expired(query::message_of(&error))
            }
            // Clients know this from a cache that lags behind, and retry.
            StoreError::Future { .. } => {
                let refusal = Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", query::message_of(&error));
                Self { retry_after_seconds: Some(1), ..refusal }
            }
            StoreError::ReaderExpired { .. } => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", query::message_of(&error))
            }
            _ => Self::internal(query::message_of(&error)),
        }
    }
}

impl From<QueryError> for Refusal {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Malformed(message) => Self::bad_request(message),
            QueryError::NotFound(message) => Self::not_found(message),
            QueryError::Store(error) => error.into(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.code, Json(self.status())).into_response();
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
