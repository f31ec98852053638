//! What requests and answers look like; used by the handlers and by the client.

mod bindings;
mod daemon;
mod letters;

pub use bindings::{BindingRequest, Bindings, Explanation, MatchRequest, Matched, Pending};
pub use daemon::{
    BreakerView, FunctionView, Functions, HealthView, LastCallsView, NodeView, Nodes, Outcomes,
};
pub use letters::{
    DeadLetterSummary, DeadLetterView, DeadLetters, LetterBatch, LetterRequest, QuarantinePage,
    QuarantineSummary, QuarantineView, Replayed, Retried,
};
