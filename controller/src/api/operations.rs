//! Internal calls for people who run the system, beyond what clients ask for.

use sarit_proto::controller::internal::operations_server::Operations;
use sarit_proto::controller::internal::{
    OpenTransaction, OpenTransactionsPage, OpenTransactionsRequest,
};
use sarit_proto::ids::TransactionId;
use sarit_proto::names::{ScopeName, ScopedStream, StreamName};
use tonic::{Request, Response, Status};

use crate::store::records::TransactionState;
use crate::tasks::Tasks;

/// Transactions of one page.
const PAGE: usize = 500;

/// Answers them.
pub(super) struct Operator(pub(super) Tasks);

#[tonic::async_trait]
impl Operations for Operator {
    async fn open_transactions(
        &self,
        request: Request<OpenTransactionsRequest>,
    ) -> Result<Response<OpenTransactionsPage>, Status> {
        let request = request.into_inner();
        let wrong = |error: String| Status::invalid_argument(error);
        let stream = ScopedStream {
            scope: ScopeName::occurring(request.scope).map_err(|error| wrong(error.to_string()))?,
            stream: StreamName::occurring(request.stream)
                .map_err(|error| wrong(error.to_string()))?,
        };
        let after = match &*request.after {
            "" => None,
            digits => {
                let id = u128::from_str_radix(digits, 16);
                let id = id.map_err(|_| wrong(format!("{digits:?} continues no list")))?;
                Some(TransactionId(id))
            }
        };
        let open = self.0.open_transactions(&stream, after, PAGE).await?;
        let missing = || Status::not_found(format!("stream {stream} does not exist"));
        let open = open.ok_or_else(missing)?;
        let next = match open.last() {
            Some(last) if open.len() == PAGE => format!("{:032x}", last.id.0),
            _ => String::new(),
        };
        let transactions = open.into_iter().map(|open| OpenTransaction {
            high: open.id.high().cast_unsigned(),
            low: open.id.low().cast_unsigned(),
            state: match open.state {
                TransactionState::Open => "open",
                TransactionState::Committing => "committing",
                TransactionState::Aborting => "aborting",
                TransactionState::Unknown => "unknown",
            }
            .to_owned(),
            created_ms: open.created_ms,
            lease_ends_ms: open.lease_ends_ms.unwrap_or(0),
            life_ends_ms: open.life_ends_ms,
        });
        Ok(Response::new(OpenTransactionsPage {
            transactions: transactions.collect(),
            next,
        }))
    }
}
