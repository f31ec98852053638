//! Who calls: bearer tokens, compared in constant time.

use std::{fmt, sync::Arc};

use axum::{
    Extension,
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{AdminState, Door, problem::Problem};

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The operator.
    Operator,
    /// The platform of this name.
    Platform(Arc<str>),
}

impl Caller {
    /// Whether this caller may see what belongs to the functions of `platform`.
    pub fn may_see(&self, platform: &str) -> bool {
        match self {
            Self::Operator => true,
            Self::Platform(own) => **own == *platform,
        }
    }

    /// The platform to which this caller is held.
    pub fn platform(&self) -> Option<&str> {
        match self {
            Self::Operator => None,
            Self::Platform(own) => Some(own),
        }
    }

    /// Refuses everybody but the operator.
    pub(super) fn operator(&self) -> Result<(), Problem> {
        if *self == Self::Operator { Ok(()) } else { Err(Problem::operator_only()) }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.platform().unwrap_or("operator"))
    }
}

/// The tokens. Only their digests are kept, so that they compare in constant time whatever their length.
pub struct Access {
    tokens: Vec<([u8; 32], Caller)>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.tokens.iter().map(|(_, caller)| caller)).finish()
    }
}

impl Access {
    /// The operator's token, and those of the platforms that have one.
    pub fn new<'a>(
        operator: Option<&SecretString>,
        platforms: impl IntoIterator<Item = (&'a str, &'a SecretString)>,
    ) -> Self {
        let operator = operator.map(|token| (digest(token.expose_secret()), Caller::Operator));
        let platforms = platforms
            .into_iter()
            .map(|(name, token)| (digest(token.expose_secret()), Caller::Platform(name.into())));
        Self { tokens: operator.into_iter().chain(platforms).collect() }
    }

    /// Whose token this is. Looks at every token, whichever fits.
    fn caller(&self, token: &str) -> Option<Caller> {
        let shown = digest(token);
        let mut found = None;
        for (digest, caller) in &self.tokens {
            if bool::from(digest.ct_eq(&shown)) {
                found = Some(caller.clone());
            }
        }
        found
    }

    fn caller_of(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let refused = |detail: &str, remedy: &str| {
            Problem::new(401, "unauthorized", "The caller is not known").detail(detail).remedy(remedy)
        };
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Err(refused("there is no Authorization header", "send `Authorization: Bearer TOKEN`"));
        };
        let token = value.to_str().ok().and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        let Some(token) = token else {
            return Err(refused(
                "the Authorization header is no bearer token",
                "send `Authorization: Bearer TOKEN`",
            ));
        };
        self.caller(token).ok_or_else(nobodys)
    }
}

fn nobodys() -> Problem {
    Problem::new(401, "unauthorized", "The caller is not known")
        .detail("the token is not one that is taken here")
        .remedy(
            "compare the token's file on both sides (a changed file is read when the daemon restarts); the listener of \
             [callbacks] takes platforms' tokens only",
        )
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Lets nobody through without a token, and leaves a [`Caller`] for the handler.
pub(super) async fn require(
    State(state): State<Arc<AdminState>>,
    Extension(door): Extension<Door>,
    mut request: Request,
    next: Next,
) -> Response {
    match state.access.caller_of(request.headers()) {
        // Not told apart from a wrong token: whoever reaches this door learns nothing of the operator's.
        Ok(Caller::Operator) if door == Door::Callbacks => nobodys().into_response(),
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Lets requests through without a token while only this host can make them, else the operator alone.
pub(super) async fn require_off_loopback(
    State(state): State<Arc<AdminState>>,
    Extension(door): Extension<Door>,
    request: Request,
    next: Next,
) -> Response {
    let open =
        door == Door::Admin { loopback: true } && (state.open_metrics || request.uri().path() != "/metrics");
    if open {
        return next.run(request).await;
    }
    match state.access.caller_of(request.headers()).and_then(|caller| caller.operator()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}
