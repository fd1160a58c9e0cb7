//! One operation on a WebSocket, from its parameters to its last result.

use std::sync::Arc;

use async_graphql::{Response, ServerError};
use futures::{Stream, StreamExt, stream};
use runtime::logging::LogContext;

use crate::edge::access_log::{OperationLog, refused_on_websocket};
use crate::edge::caller::Caller;
use crate::edge::executor::Executor;
use crate::edge::refusal::Refusal;
use crate::edge::request::Parameters;

/// The progress of one operation.
pub enum Progress {
    /// It was validated and paid.
    Started(OperationLog),
    Result(Response),
    Refused(Vec<ServerError>),
    Completed,
}

/// Validates an operation and executes it. Both happen in the stream, so that the connection does not wait for them.
pub fn run(executor: Arc<Executor>, parameters: Parameters, caller: Caller) -> impl Stream<Item = Progress> + Send {
    let started = async move {
        let prepared = executor.prepare(parameters, &caller).await?;
        let (info, context) = (prepared.info.clone(), LogContext::current());
        let results = executor.stream(prepared)?;
        Ok((OperationLog::new(info, context, "websocket"), results))
    };
    stream::once(started).flat_map(|started| match started {
        Ok((log, results)) => {
            let results = results.map(Progress::Result).chain(stream::iter([Progress::Completed]));
            stream::iter([Progress::Started(log)]).chain(results).left_stream()
        }
        Err(refusal) => {
            let errors = Refusal::errors(refusal);
            refused_on_websocket(&LogContext::current(), &errors);
            stream::iter([Progress::Refused(errors)]).right_stream()
        }
    })
}
