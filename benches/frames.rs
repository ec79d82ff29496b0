//! What a frame costs in processor time: encoding at the active, inspection at a passive, decoding
//! for replay, each for one put of 1 KiB and for 64 of them in one frame.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use keelson_format::{Chunk, Cursor, CursorState, FramingConfig, decode_frame};
use keelson_types::{Epoch, Position, Record, StreamId};

const VALUE_BYTES: usize = 1024;

fn puts(count: usize) -> Vec<Record> {
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    let put =
        |n: usize| Record::Put { key: Bytes::from(format!("key-{n:012}")), value: value.clone() };
    (0..count).map(put).collect()
}

fn cursor() -> (Cursor, Chunk) {
    let config = FramingConfig { compress: false, ..FramingConfig::default() };
    let mut cursor = Cursor::new(CursorState::empty(StreamId::from_u128(1)), config);
    let (header, _) = cursor.begin_epoch(Epoch::new(0, 1), 1).expect("first epoch");
    (cursor, header)
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    for count in [1, 64] {
        let records = puts(count);
        group.throughput(Throughput::Bytes((count * VALUE_BYTES) as u64));
        let (start, header) = cursor();
        group.bench_function(BenchmarkId::new("encode", count), |bencher| {
            bencher.iter(|| {
                let mut cursor = start;
                cursor.encode(&records, 1, Position::ZERO, Position::ZERO).expect("fits")
            });
        });
        let mut active = start;
        let encoded = active.encode(&records, 1, Position::ZERO, Position::ZERO).expect("fits");
        let chunk = encoded.chunks.last().expect("a frame").clone();
        let (mut passive, _) = cursor();
        passive = Cursor::new(CursorState::empty(StreamId::from_u128(1)), *passive.config());
        passive.verify(&header).expect("the header fits");
        group.bench_function(BenchmarkId::new("inspect", count), |bencher| {
            bencher.iter(|| {
                let mut cursor = passive;
                cursor.verify(&chunk).expect("the frame fits")
            });
        });
        group.bench_function(BenchmarkId::new("decode", count), |bencher| {
            bencher.iter(|| decode_frame(&chunk.bytes).expect("whole"));
        });
    }
    group.finish();
}

criterion_group!(benches, frames);
criterion_main!(benches);
