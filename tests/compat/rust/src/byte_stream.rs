//! A byte stream: write, read, seek, truncate, conditional writes of two writers, seal.

use std::io::SeekFrom;

use anyhow::{Context, Result, ensure};
use pravega_client::byte::{ByteReader, ByteWriter};

use crate::world::World;

const BYTES: usize = 3 * 1024 * 1024;
const WRITE_BYTES: usize = 64 * 1024;
const HEAD: usize = 1024 * 1024 + 17;

pub(crate) async fn write_read_seek_truncate_seal(world: &World) -> Result<()> {
    let stream = world.create_stream("bytes", 1).await?;
    let data: Vec<u8> = (0..BYTES)
        .map(|at| (at % 251) as u8 ^ (world.nonce as u8))
        .collect();
    let mut writer = world.client.create_byte_writer(stream.clone()).await;
    for chunk in data.chunks(WRITE_BYTES) {
        let written = writer.write(chunk).await.context("write")?;
        ensure!(
            written == chunk.len(),
            "{written} of {} bytes were taken",
            chunk.len()
        );
    }
    writer.flush().await.context("flush")?;
    ensure!(
        writer.current_offset() == BYTES as u64,
        "written to {}",
        writer.current_offset()
    );

    let mut reader = world.client.create_byte_reader(stream.clone()).await;
    ensure!(reader.current_head().await? == 0, "the head is not 0");
    ensure!(
        reader.current_tail().await? == BYTES as u64,
        "the tail is not the length"
    );
    ensure!(
        read(&mut reader, BYTES).await? == data,
        "other bytes were read than written"
    );
    for (seek, at) in [
        (SeekFrom::Start(100_000), 100_000),
        (SeekFrom::Current(-150), 100_000 + 50 - 150),
        (SeekFrom::End(-1_000), BYTES - 1_000),
    ] {
        ensure!(
            reader.seek(seek).await? == at as u64,
            "{seek:?} did not go to {at}"
        );
        let found = read(&mut reader, 50).await?;
        ensure!(
            found == data[at..at + 50],
            "other bytes at {at} after {seek:?}"
        );
    }
    ensure!(
        reader.seek(SeekFrom::Current(-10_000_000)).await.is_err(),
        "a seek below 0 went well"
    );

    writer
        .truncate_data_before(HEAD as i64)
        .await
        .context("truncate")?;
    ensure!(
        reader.current_head().await? == HEAD as u64,
        "the head is not where it was cut"
    );
    ensure!(
        reader.current_tail().await? == BYTES as u64,
        "the cut moved the tail"
    );
    reader.seek(SeekFrom::Start(0)).await?;
    ensure!(
        reader.read(&mut [0; 10]).await.is_err(),
        "truncated bytes were read"
    );
    reader.seek(SeekFrom::Start(HEAD as u64)).await?;
    ensure!(
        read(&mut reader, BYTES - HEAD).await? == data[HEAD..],
        "other bytes above the cut"
    );

    two_writers(world, &mut writer).await?;
    reader.seek(SeekFrom::Start(BYTES as u64)).await?;
    ensure!(
        read(&mut reader, 15).await? == b"first-second-th",
        "not what two writers wrote"
    );

    writer.seek_to_tail().await;
    writer.seal().await.context("seal")?;
    // What is below the end of a sealed segment is read, and then the end is told.
    ensure!(
        read(&mut reader, 3).await? == b"ird",
        "the last bytes are others"
    );
    ensure!(
        reader.read(&mut [0; 10]).await? == 0,
        "bytes beyond a sealed end"
    );
    let late = match writer.write(b"late").await {
        Ok(_) => writer.flush().await,
        Err(error) => Err(error),
    };
    ensure!(late.is_err(), "a sealed segment took bytes");
    Ok(())
}

/// Every write names the offset that it expects: of two writers at one offset, the second is
/// refused, and goes on from the tail after a reset.
async fn two_writers(world: &World, first: &mut ByteWriter) -> Result<()> {
    let mut second = world
        .another_client()
        .create_byte_writer(world.stream("bytes"))
        .await;
    second.seek_to_tail().await;
    ensure!(
        second.current_offset() == BYTES as u64,
        "the tail is at {}",
        second.current_offset()
    );
    first.write(b"first-").await?;
    first.flush().await.context("the first writer's write")?;
    second.write(b"lost").await?;
    ensure!(
        second.flush().await.is_err(),
        "a write at a stale offset was taken"
    );
    second.reset().await?;
    second.seek_to_tail().await;
    second.write(b"second-third").await?;
    second.flush().await.context("write after the reset")?;
    Ok(())
}

/// Reads exactly `length` bytes.
async fn read(reader: &mut ByteReader, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        filled += reader.read(&mut bytes[filled..]).await.context("read")?;
    }
    Ok(bytes)
}
