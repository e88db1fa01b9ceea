//! One call through the SDK, with the body of its answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;

/// Keeps the body of the last answer, and counts attempts: each is a call that AWS bills and limits.
#[derive(Clone, Debug)]
pub(super) struct Capture {
    body: Arc<Mutex<Vec<u8>>>,
    calls: Arc<AtomicU64>,
}

impl Capture {
    pub fn new(calls: Arc<AtomicU64>) -> Self {
        Self { body: Arc::default(), calls }
    }

    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.body.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Intercept for Capture {
    fn name(&self) -> &'static str {
        "ElavaCapture"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response().body().bytes().unwrap_or_default();
        *self.body.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = body.to_vec();
        Ok(())
    }
}
