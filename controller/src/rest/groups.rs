//! Reader groups.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use sarit_proto::controller::delete_reader_group_status::Status as Deleted;
use sarit_proto::controller::reader_group_config_response::Status as Found;
use sarit_proto::controller::{
    ControllerService as _, ReaderGroupConfiguration, ReaderGroupInfo, StreamInfo,
};
use sarit_proto::names::ScopedStream;
use tonic::Request;

use super::model::{ReaderGroupName, ReaderGroupProperty, ReaderGroupsList};
use super::{Answer, At, Refusal, Rest, scope_name, scopes, stream_name};
use crate::store::catalog::PAGE;
use crate::store::keys;

/// Most groups of one answer.
const GROUPS_MAX: usize = 10_000;

pub(super) async fn list(
    State(rest): State<Rest>,
    At(scope): At<String>,
) -> Answer<Json<ReaderGroupsList>> {
    let scope = scope_name(scope)?;
    scopes::check(&rest, &scope).await?;
    let prefix = keys::groups_in(&scope);
    let mut reader_groups = Vec::new();
    let mut after: Option<String> = None;
    while reader_groups.len() < GROUPS_MAX {
        let store = &rest.service.catalog.store;
        let page = store.range(&prefix, after.as_deref(), PAGE).await?;
        let Some((last, _)) = page.entries.last() else {
            break;
        };
        after = Some(last.clone());
        reader_groups.extend(page.entries.iter().map(|(key, _)| ReaderGroupName {
            reader_group_name: key[prefix.len()..].to_owned(),
        }));
    }
    Ok(Json(ReaderGroupsList { reader_groups }))
}

pub(super) async fn show(
    State(rest): State<Rest>,
    At(names): At<(String, String)>,
) -> Answer<Json<ReaderGroupProperty>> {
    let group = stream_name(names)?;
    let config = find(&rest, &group).await?;
    let streams = config.starting_stream_cuts.into_iter();
    let named = |info: StreamInfo| format!("{}/{}", info.scope, info.stream);
    Ok(Json(ReaderGroupProperty {
        scope_name: group.scope.to_string(),
        reader_group_name: group.stream.to_string(),
        stream_list: streams
            .filter_map(|cut| cut.stream_info.map(named))
            .collect(),
        online_reader_ids: Vec::new(),
    }))
}

pub(super) async fn delete(
    State(rest): State<Rest>,
    At(names): At<(String, String)>,
) -> Answer<StatusCode> {
    let group = stream_name(names)?;
    let config = find(&rest, &group).await?;
    let info = ReaderGroupInfo {
        reader_group_id: config.reader_group_id,
        generation: config.generation,
        ..info(&group)
    };
    let deleted = rest.service.delete_reader_group(Request::new(info)).await?;
    match deleted.into_inner().status() {
        Deleted::Success => Ok(StatusCode::NO_CONTENT),
        Deleted::RgNotFound => Err(Refusal::missing(format_args!("reader group {group}"))),
        Deleted::Failure => Err(Refusal::failed()),
    }
}

async fn find(rest: &Rest, group: &ScopedStream) -> Answer<ReaderGroupConfiguration> {
    let found = rest
        .service
        .get_reader_group_config(Request::new(info(group)));
    let found = found.await?.into_inner();
    match (found.status(), found.config) {
        (Found::Success, Some(config)) => Ok(config),
        (Found::RgNotFound, _) => Err(Refusal::missing(format_args!("reader group {group}"))),
        (Found::Success | Found::Failure, _) => Err(Refusal::failed()),
    }
}

fn info(group: &ScopedStream) -> ReaderGroupInfo {
    ReaderGroupInfo {
        scope: group.scope.to_string(),
        reader_group: group.stream.to_string(),
        ..ReaderGroupInfo::default()
    }
}
