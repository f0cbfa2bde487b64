//! Scopes and streams: create, exists, list, configuration, update, tags, what is refused.

use anyhow::{Result, ensure};
use futures_util::TryStreamExt;
use pravega_client_shared::{Retention, RetentionType, Scope, ScopedStream, StreamConfiguration};
use pravega_controller_client::paginator;

use crate::world::{World, configuration};

pub(crate) async fn scopes_and_streams(world: &World) -> Result<()> {
    let controller = world.controller();
    ensure!(
        !controller.check_scope_exists(&world.scope).await?,
        "the scope exists before"
    );
    ensure!(
        controller.create_scope(&world.scope).await?,
        "the scope was there"
    );
    ensure!(
        !controller.create_scope(&world.scope).await?,
        "the scope was created twice"
    );
    ensure!(
        controller.check_scope_exists(&world.scope).await?,
        "the scope is not there"
    );
    let scopes: Vec<Scope> = paginator::list_scopes(controller).try_collect().await?;
    ensure!(
        scopes.contains(&world.scope),
        "{} is not listed",
        world.scope
    );

    let four = StreamConfiguration {
        retention: Retention {
            retention_type: RetentionType::Size,
            retention_param: 1 << 30,
        },
        tags: Some(vec!["colour".into(), "size".into()]),
        ..configuration(world.stream("four"), 4)
    };
    let one = StreamConfiguration {
        tags: Some(vec!["size".into()]),
        ..configuration(world.stream("one"), 1)
    };
    let plain = configuration(world.stream("plain"), 2);
    for config in [&four, &one, &plain] {
        let stream = &config.scoped_stream;
        ensure!(
            !controller.check_stream_exists(stream).await?,
            "{stream} exists before"
        );
        ensure!(
            controller.create_stream(config).await?,
            "{stream} was there"
        );
        ensure!(
            controller.check_stream_exists(stream).await?,
            "{stream} is not there"
        );
    }
    ensure!(
        !controller.create_stream(&four).await?,
        "a stream was created twice"
    );
    ensure!(
        listed(world, None).await? == ["four", "one", "plain"],
        "streams are listed wrong"
    );
    ensure!(
        listed(world, Some("size")).await? == ["four", "one"],
        "tag size is listed wrong"
    );
    ensure!(
        listed(world, Some("colour")).await? == ["four"],
        "tag colour is listed wrong"
    );
    ensure!(
        listed(world, Some("none")).await?.is_empty(),
        "a tag nobody has lists streams"
    );

    for config in [&four, &one, &plain] {
        let stream = &config.scoped_stream;
        let found = controller.get_stream_configuration(stream).await?;
        ensure!(same(&found, config), "{stream} is described as {found:?}");
        let segments = controller
            .get_current_segments(stream)
            .await?
            .get_segments()
            .len();
        ensure!(
            segments == config.scaling.min_num_segments as usize,
            "{stream}: {segments} segments"
        );
        let head = world.head(stream).await?;
        ensure!(
            head.len() == segments,
            "{stream}: {} segments at the head",
            head.len()
        );
        ensure!(
            head.values().all(|offset| *offset == 0),
            "{stream} starts at {head:?}"
        );
    }

    let updated = StreamConfiguration {
        retention: Retention {
            retention_type: RetentionType::Time,
            retention_param: 86_400_000,
        },
        tags: Some(vec!["shape".into(), "size".into()]),
        ..four.clone()
    };
    ensure!(
        controller.update_stream(&updated).await?,
        "the update was refused"
    );
    let found = controller
        .get_stream_configuration(&updated.scoped_stream)
        .await?;
    ensure!(same(&found, &updated), "after the update: {found:?}");
    let tags = sorted(controller.get_stream_tags(&updated.scoped_stream).await?);
    ensure!(tags == ["shape", "size"], "tags after the update: {tags:?}");
    ensure!(
        listed(world, Some("colour")).await?.is_empty(),
        "a removed tag lists the stream"
    );
    ensure!(
        listed(world, Some("shape")).await? == ["four"],
        "a new tag does not list the stream"
    );

    refused(world).await
}

/// What must be an error, at once, and change nothing.
async fn refused(world: &World) -> Result<()> {
    let controller = world.controller();
    let missing = world.stream("missing");
    ensure!(
        !controller.check_stream_exists(&missing).await?,
        "a missing stream exists"
    );
    ensure!(
        controller.get_stream_configuration(&missing).await.is_err(),
        "a missing stream has a configuration"
    );
    ensure!(
        !controller.delete_stream(&missing).await?,
        "a missing stream was deleted"
    );
    ensure!(
        controller
            .delete_stream(&world.stream("one"))
            .await
            .is_err(),
        "a stream was deleted unsealed"
    );
    let elsewhere = Scope::from(format!("{}-missing", world.scope.name));
    ensure!(
        !controller.check_scope_exists(&elsewhere).await?,
        "a missing scope exists"
    );
    ensure!(
        !controller.delete_scope(&elsewhere).await?,
        "a missing scope was deleted"
    );
    let homeless = ScopedStream::new(elsewhere, missing.stream);
    ensure!(
        controller
            .create_stream(&configuration(homeless, 1))
            .await
            .is_err(),
        "a stream was created in a missing scope"
    );
    let unnameable = world.stream("no spaces or / here");
    ensure!(
        controller
            .create_stream(&configuration(unnameable, 1))
            .await
            .is_err(),
        "a stream was created under an invalid name"
    );
    ensure!(
        controller
            .create_scope(&Scope::from("no/slash".to_owned()))
            .await
            .is_err(),
        "a scope was created under an invalid name"
    );
    ensure!(
        listed(world, None).await? == ["four", "one", "plain"],
        "a refusal left a stream"
    );
    Ok(())
}

/// Names of the scope's streams that users made, all or those with a tag, sorted.
async fn listed(world: &World, tag: Option<&str>) -> Result<Vec<String>> {
    let scope = world.scope.clone();
    let streams: Vec<ScopedStream> = match tag {
        None => {
            paginator::list_streams(scope, world.controller())
                .try_collect()
                .await?
        }
        Some(tag) => {
            paginator::list_streams_for_tag(scope, tag.to_owned(), world.controller())
                .try_collect()
                .await?
        }
    };
    let names = streams.into_iter().map(|stream| stream.stream.name);
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('_')).collect();
    names.sort();
    Ok(names)
}

/// Whether two configurations are equal; the order of tags means nothing, nor does none against an
/// empty list.
fn same(left: &StreamConfiguration, right: &StreamConfiguration) -> bool {
    left.scoped_stream == right.scoped_stream
        && left.scaling == right.scaling
        && left.retention == right.retention
        && sorted(left.tags.clone()) == sorted(right.tags.clone())
}

fn sorted(tags: Option<Vec<String>>) -> Vec<String> {
    let mut tags = tags.unwrap_or_default();
    tags.sort();
    tags
}
