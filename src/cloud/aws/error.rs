//! The meaning of AWS's errors for a sweep.

use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::display::DisplayErrorContext;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::cloud::CloudError;
use crate::inventory::Reason;

pub(super) enum Failure {
    /// The requested resource does not exist.
    NotFound {
        code: String,
    },
    Error(CloudError),
}

impl Failure {
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Failure::NotFound { .. } => None,
            Failure::Error(error) => Some(error.reason),
        }
    }
}

/// `action` is the permission that the call needs.
pub(super) fn classify<E>(error: &SdkError<E, HttpResponse>, action: &str) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let (reason, message) = match error {
        SdkError::ServiceError(service) => {
            let code = service.err().code().unwrap_or("");
            let message = service.err().message().unwrap_or("no message").to_owned();
            if is_not_found(code, &message) {
                return Failure::NotFound { code: code.to_owned() };
            }
            let status = service.raw().status().as_u16();
            (reason_of(code, &message, status), format!("{action}: {code}: {message}"))
        }
        SdkError::TimeoutError(_) => (Reason::TimedOut, format!("{action}: no answer in time")),
        SdkError::DispatchFailure(failure) => {
            let text = DisplayErrorContext(error).to_string();
            let reason = match failure.as_connector_error() {
                Some(connector) if connector.is_timeout() => Reason::TimedOut,
                // Credentials are resolved when the request is sent; a chain without any fails here.
                _ if text.contains("credentials") => Reason::InvalidCredentials,
                _ => Reason::Unreachable,
            };
            (reason, format!("{action}: {}", root_cause(error)))
        }
        SdkError::ResponseError(_) => (Reason::Malformed, format!("{action}: {}", root_cause(error))),
        _ => (Reason::Malformed, format!("{action}: the request could not be built: {}", root_cause(error))),
    };
    let action = matches!(reason, Reason::Denied | Reason::DeniedByPolicy).then(|| action.to_owned());
    Failure::Error(CloudError { reason, action, message: bounded(message), access_ended: false })
}

/// Whether AWS refused to assume the role, or no longer knows the access key. Of any other failure of credentials, such
/// as a clock that is wrong, nothing follows for the permissions.
pub(super) fn is_access_ended<E>(error: &SdkError<E, HttpResponse>) -> bool
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let refused = |code: Option<&str>| matches!(code, Some("AccessDenied" | "InvalidClientTokenId"));
    // The role is assumed when the request is sent, so its refusal is in the chain of sources.
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(assuming) = cause.downcast_ref::<SdkError<AssumeRoleError, HttpResponse>>() {
            return refused(assuming.code());
        }
        source = cause.source();
    }
    error.code() == Some("InvalidClientTokenId")
}

/// `InvalidVolume.NotFound`, `NatGatewayNotFound`, `NoSuchEntity`, `QueueDoesNotExist`, ...: AWS has dozens of ways to
/// report that a resource does not exist, some only in the message.
fn is_not_found(code: &str, message: &str) -> bool {
    const ENDINGS: [&str; 5] = ["NotFound", "NotFoundException", "NotFoundFault", ".Unknown", "DoesNotExist"];
    let by_code = ENDINGS.iter().any(|ending| code.ends_with(ending))
        || code.starts_with("NoSuch")
        || code.contains("NonExistent")
        // An image that was deregistered recently: AWS knows its id, and nothing else.
        || code == "InvalidAMIID.Unavailable";
    // CloudFormation, SageMaker and EMR.
    let words = ["does not exist", "Could not find", "could not be found", "RecordNotFound"];
    let is_cluster = message.contains("Cluster id") && message.contains("is not valid");
    let may_mean_it = matches!(code, "ValidationError" | "ValidationException" | "InvalidRequestException");
    by_code || (may_mean_it && (is_cluster || words.iter().any(|words| message.contains(words))))
}

fn reason_of(code: &str, message: &str, status: u16) -> Reason {
    match code {
        "RequestLimitExceeded"
        | "Throttling"
        | "LimitExceededException"
        | "PriorRequestNotComplete"
        | "ProvisionedThroughputExceededException"
        | "ThrottlingException"
        | "TooManyRequestsException"
        | "SlowDown"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "BandwidthLimitExceeded"
        | "EC2ThrottledException"
        | "ThrottledException"
        | "TransactionInProgressException" => Reason::Throttled,
        // AWS reports this only in the message: "... with an explicit deny in a service control policy".
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" | "AuthorizationError"
            if message.contains("service control policy") =>
        {
            Reason::DeniedByPolicy
        }
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" | "AuthorizationError" => {
            Reason::Denied
        }
        "OptInRequired" => Reason::RegionDisabled,
        "AuthFailure"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "SignatureDoesNotMatch"
        | "InvalidAccessKeyId"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "RequestTimeTooSkewed"
        | "InvalidSignatureException" => Reason::InvalidCredentials,
        _ if status == 429 => Reason::Throttled,
        _ if status == 403 => Reason::Denied,
        _ => Reason::ServerError,
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Messages come from outside and are shown in conditions and events.
fn bounded(message: String) -> String {
    const MAX_CHARS: usize = 512;
    match message.char_indices().nth(MAX_CHARS) {
        None => message,
        Some((end, _)) => format!("{}...", &message[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_of_the_organisation_is_distinguished_from_a_missing_permission() {
        let scp =
            "not authorized to perform ec2:DescribeVolumes with an explicit deny in a service control policy";
        assert_eq!(reason_of("UnauthorizedOperation", scp, 403), Reason::DeniedByPolicy);
        assert_eq!(reason_of("UnauthorizedOperation", "You are not authorized", 403), Reason::Denied);
        assert_eq!(reason_of("SomethingNew", "", 503), Reason::ServerError);
        assert_eq!(reason_of("RequestLimitExceeded", "", 503), Reason::Throttled);
    }

    #[test]
    fn a_long_message_is_cut_by_characters() {
        let fits = "é".repeat(512);
        assert_eq!(bounded(fits.clone()), fits);
        assert_eq!(bounded("é".repeat(513)), fits + "...");
    }

    #[test]
    fn every_spelling_of_no_such_id_is_not_found_and_an_error_is_not() {
        for code in [
            "InvalidVolume.NotFound",
            "InvalidAllocationID.NotFound",
            "NatGatewayNotFound",
            "DBInstanceNotFound",
            "CacheClusterNotFoundFault",
            "ResourceNotFoundException",
            "NoSuchEntity",
            "AWS.SimpleQueueService.NonExistentQueue",
            "com.amazonaws.sqs#QueueDoesNotExist",
            "NotFound",
            "InvalidAMIID.Unavailable",
        ] {
            assert!(is_not_found(code, ""), "{code}");
        }
        assert!(is_not_found("ValidationError", "Stack with id arn:... does not exist"));
        assert!(is_not_found("InvalidRequestException", "Cluster id 'j-1' is not valid."));
        assert!(!is_not_found("ValidationException", "The value of maxResults is not valid"), "a mistake of ours");
        for code in ["InternalError", "UnauthorizedOperation", "ValidationError", "AccessDenied"] {
            assert!(!is_not_found(code, "is not authorized"), "{code}");
        }
    }
}
