//! Tests of memory, checks, barriers, atomics and matrices: what goes beyond one lane.

use super::*;
use crate::{
    harness::{fault, kernel, run, try_run},
    parse,
};

/// What each lane stores from %r4.
fn lanes(threads: u32, declarations: &str, body: &str) -> Vec<u32> {
    run(threads, declarations, &format!("{body}\nst.global.u32 [%out], %r4;"), &[]).iter().map(|words| words[0]).collect()
}

fn expect(kind: FaultKind, words: &str, threads: u32, declarations: &str, body: &str) {
    let report = fault(threads, declarations, body);
    assert_eq!(report.kind, kind, "{report}");
    assert!(report.message.contains(words), "{report}");
}

// ---- Loads and stores

#[test]
fn vectors_bytes_and_signs() {
    let code = "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%in];\nst.global.v2.u32 [%out], {%r4, %r3};\nld.global.s8 %r5, [%in+3];\n\
                st.global.u32 [%out+8], %r5;\nld.global.u8 %r5, [%in+3];\nst.global.u16 [%out+12], %r5;\nld.global.s16 %r5, [%in+2];\n\
                st.global.u32 [%out+16], %r5;\nld.global.v2.f64 {%x1, %x2}, [%in];\nst.global.f64 [%out+24], %x2;";
    let out = run(32, "", code, &[0x8f00_0001, 2, 3, 4]);
    assert_eq!(out[31], [4, 3, 0xffff_ff8f, 0x8f, 0xffff_8f00, 0, 3, 4]);
    let wide = "ld.global.u8 %d1, [%in];\nst.global.u64 [%out], %d1;\nld.global.s32 %d1, [%in];\nst.global.u64 [%out+8], %d1;\nst.global.u8 [%out+16], %d1;";
    assert_eq!(run(32, "", wide, &[0xffff_fffe])[0], [0xfe, 0, 0xffff_fffe, !0, 0xfe, 0, 0, 0]);
}

#[test]
fn local_generic_and_constant_memory() {
    let local =
        ".local .align 4 .b8 room[16];\nmov.u64 %d1, room;\ncvta.local.u64 %d2, %d1;\nst.u32 [%d2+4], %lane;\nld.local.u32 %r4, [room+4];";
    assert_eq!(lanes(32, "", local)[9], 9);
    let shared = ".shared .align 4 .b8 room[128];\nmov.u64 %d1, room;\ncvta.shared.u64 %d2, %d1;\nmul.wide.u32 %d3, %lane, 4;\nadd.s64 %d2, %d2, %d3;\n\
                  st.u32 [%d2], %lane;\nbar.warp.sync 0xffffffff;\nld.shared.u32 %r4, [room+20];\ncvta.to.shared.u64 %d4, %d2;\nld.shared.u32 %r5, [%d4];";
    assert_eq!(lanes(32, "", shared)[9], 5);
    let table = ".const .align 4 .b8 table[8] = {1, 0, 0, 0, 2, 1, 0, 0};\n.global .align 4 .u32 counter = 40;\n.global .align 8 .u64 link = table;";
    let code = "ld.const.u32 %r1, [table+4];\natom.global.add.u32 %r2, [counter], 1;\nld.global.u64 %d1, [link];\nld.global.u32 %r3, [%d1];\n\
                shl.b32 %r3, %r3, 16;\nadd.u32 %r4, %r1, %r2;\nadd.u32 %r4, %r4, %r3;";
    assert_eq!(lanes(2, table, code), [0x10000 + 258 + 40, 0x10000 + 258 + 41]);
}

#[test]
fn variables_have_addresses() {
    let text = kernel(".global .align 4 .u32 counter = 40;", "atom.global.add.u32 %r1, [counter], 1;");
    let module = parse(&text).unwrap();
    let mut machine = Machine::new(Mode::Checked);
    let (address, bytes) = machine.variable(&module, "counter").unwrap();
    assert_eq!(bytes, 4);
    let p = machine.allocate(4096).unwrap().to_le_bytes();
    machine.launch(&module.kernels[0], [2, 1, 1], [32, 1, 1], 0, &[p, p].concat()).unwrap();
    let mut out = [0; 4];
    machine.read(address, &mut out).unwrap();
    assert_eq!(u32::from_le_bytes(out), 104);
    assert!(machine.variable(&module, "nothing").is_none());
}

#[test]
fn struct_parameters_and_their_addresses() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .align 8 .b8 k_a[24], .param .u64 k_b)\n{\n.reg .b32 %r<9>;\n.reg .b64 %d<9>;\n\
                ld.param.u32 %r1, [k_a+4];\nld.param.s8 %r2, [k_a+8];\nld.param.v2.u32 {%r3, %r4}, [k_a+16];\nld.param.u64 %d1, [k_b];\nmov.b64 %d2, k_a;\n\
                ld.param.u32 %r5, [%d2+4];\nadd.u32 %r1, %r1, %r5;\nst.global.v4.u32 [%d1], {%r1, %r2, %r3, %r4};\nret;\n}\n";
    let module = parse(text).unwrap();
    assert_eq!(module.kernels[0].parameters, [crate::Parameter { offset: 0, size: 24 }, crate::Parameter { offset: 24, size: 8 }]);
    let mut machine = Machine::new(Mode::Checked);
    let out = machine.allocate(16).unwrap();
    let mut arguments: Vec<u8> = [0u32, 7, 0xfe, 0, 11, 12].iter().flat_map(|w| w.to_le_bytes()).collect();
    arguments.extend(out.to_le_bytes());
    machine.launch(&module.kernels[0], [1; 3], [1; 3], 0, &arguments).unwrap();
    let mut bytes = [0; 16];
    machine.read(out, &mut bytes).unwrap();
    assert_eq!(bytes.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect::<Vec<_>>(), [14, 0xffff_fffe, 11, 12]);
}

// ---- Control flow

#[test]
fn lanes_part_and_meet_again() {
    let joined = "and.b32 %r1, %lane, 1;\nsetp.eq.u32 %p1, %r1, 1;\n@%p1 bra B;\nmov.u32 %r3, 10;\nJ:\nSYNC\nadd.s32 %r4, %r3, %lane;\nbra E;\nB:\nmov.u32 %r3, 20;\nbra J;\nE:";
    for sync in ["", "bar.sync 0;", "bar.warp.sync 0xffffffff;"] {
        let got = lanes(64, "", &joined.replace("SYNC", sync));
        assert_eq!(got, (0..64).map(|lane| lane + if lane % 2 == 1 { 20 } else { 10 }).collect::<Vec<_>>(), "{sync}");
    }
    let triangle =
        "mov.u32 %r4, 0;\nmov.u32 %r1, 0;\nL:\nadd.u32 %r4, %r4, %r1;\nadd.u32 %r1, %r1, 1;\nsetp.le.u32 %p1, %r1, %lane;\n@%p1 bra L;";
    assert_eq!(lanes(32, "", triangle), (0..32).map(|lane| lane * (lane + 1) / 2).collect::<Vec<_>>());
    let table = "and.b32 %r1, %lane, 3;\nT:\n.branchtargets A, B, C, C;\nbrx.idx %r1, T;\nA:\nmov.u32 %r4, 1;\nbra E;\nB:\nmov.u32 %r4, 2;\nbra E;\nC:\nmov.u32 %r4, 3;\nE:";
    assert_eq!(lanes(32, "", table)[..5], [1, 2, 3, 3, 1]);
}

#[test]
fn functions_are_called() {
    let declarations = ".func (.param .b32 result) twice(.param .b32 twice_p);\n\
         .func (.param .b32 result) twice(.param .b32 twice_p)\n{\n.reg .b32 %r<4>;\n.reg .pred %p;\nld.param.b32 %r1, [twice_p];\nsetp.gt.u32 %p, %r1, 9;\n\
         @%p bra BIG;\nshl.b32 %r2, %r1, 1;\nst.param.b32 [result+0], %r2;\nret;\nBIG:\nst.param.b32 [result], 99;\nret;\n}";
    let call =
        "{\n.param .b32 a0;\nst.param.b32 [a0+0], ARG;\n.param .b32 r0;\ncall.uni (r0), twice, (a0);\nld.param.b32 %r4, [r0+0];\n}\n";
    let both = call.replace("ARG", "%lane") + &call.replace("ARG", "%r4");
    assert_eq!(lanes(32, declarations, &both)[..12], [0, 4, 8, 12, 16, 99, 99, 99, 99, 99, 99, 99]);
    let recursive = ".func f()\n{\ncall f;\nret;\n}";
    assert!(parse(&kernel(recursive, "call f;")).unwrap_err().message.contains("recursion"));
}

#[test]
fn barriers_count_and_have_numbers() {
    let odd = "and.b32 %r1, %lane, 1;\nsetp.eq.u32 %p1, %r1, 1;\n";
    assert_eq!(lanes(96, "", &format!("{odd}bar.red.popc.u32 %r4, 0, %p1;"))[5], 48);
    assert_eq!(lanes(96, "", &format!("{odd}barrier.red.or.pred %p2, 0, %p1;\nselp.b32 %r4, 1, 0, %p2;"))[5], 1);
    assert_eq!(lanes(96, "", &format!("{odd}bar.red.and.pred %p2, 0, %p1;\nselp.b32 %r4, 1, 0, %p2;"))[5], 0);
    let two = "setp.lt.u32 %p1, %lane, 64;\n@%p1 bra A;\nbar.sync 2, 32;\nbra E;\nA:\nbar.sync 1, 64;\nE:\nmov.u32 %r4, 1;";
    assert_eq!(lanes(96, "", two).iter().sum::<u32>(), 96);
}

#[test]
fn barrier_mistakes_are_reported() {
    let half = "setp.lt.u32 %p1, %lane, 16;\n@%p1 bra L;\nbar.sync 0;\nL:";
    expect(FaultKind::Barrier, "returned", 32, "", half);
    let stuck = half.replace("L:", "L:\nbar.warp.sync 0xffffffff;");
    expect(FaultKind::Barrier, "divergent", 32, "", &stuck);
    expect(FaultKind::Barrier, "returned", 64, "", "setp.lt.u32 %p1, %lane, 32;\n@%p1 ret;\nbar.sync 0;");
    expect(FaultKind::Barrier, "returned", 32, "", "setp.lt.u32 %p1, %lane, 16;\n@%p1 ret;\nbar.sync 0;");
    let two = "setp.lt.u32 %p1, %lane, 32;\n@%p1 bra A;\nbar.sync 0;\nbra E;\nA:\n.loc 1 9 0\nbar.sync 0;\nE:";
    expect(FaultKind::Barrier, "test.cu:9", 64, "", two);
    expect(FaultKind::Trap, "gave up", 32, "", "trap;");
}

// ---- Atomics

#[test]
fn atomics_change_memory_in_turn() {
    let set = ".shared .align 8 .b8 room[8];\nsetp.eq.u32 %p1, %lane, 0;\n@%p1 st.shared.u64 [room], INIT;\nbar.sync 0;\n";
    let after = "\nbar.sync 0;\nld.shared.u32 %r4, [room];";
    let atomic = |init: &str, code: &str| lanes(64, "", &format!("{}{code}{after}", set.replace("INIT", init)))[0];
    assert_eq!(atomic("5", "red.shared.add.u32 [room], %lane;"), 5 + 63 * 32);
    assert_eq!(atomic("5", "atom.shared.max.s32 %r1, [room], -7;"), 5);
    assert_eq!(atomic("5", "atom.shared.max.u32 %r1, [room], %lane;"), 63);
    assert_eq!(atomic("5", "atom.shared.min.s32 %r1, [room], -7;"), -7i32 as u32);
    assert_eq!(atomic("0", "atom.shared.inc.u32 %r1, [room], 9;"), 4);
    assert_eq!(atomic("0", "atom.shared.cas.b32 %r1, [room], 0, 77;"), 77);
    assert_eq!(atomic("5", "atom.shared.exch.b32 %r1, [room], %lane;"), 63);
    assert_eq!(atomic("0", "shl.b32 %r2, 1, %lane;\nred.shared.or.b32 [room], %r2;"), !0);
    assert_eq!(atomic("0", "atom.shared.add.f32 %f1, [room], 0f3F000000;"), 32f32.to_bits());
    let wide = lanes(
        64,
        "",
        &format!("{}atom.shared.add.u64 %d1, [room], 0x100000000;\nbar.sync 0;\nld.shared.u32 %r4, [room+4];", set.replace("INIT", "0")),
    );
    assert_eq!(wide[0], 64);
    let double = format!(
        "{}atom.shared.add.f64 %x1, [room], 0d3FE0000000000000;\nbar.sync 0;\nld.shared.f64 %x2, [room];\ncvt.rzi.u32.f64 %r4, %x2;",
        set.replace("INIT", "0")
    );
    assert_eq!(lanes(64, "", &double)[0], 32);
}

#[test]
fn blocks_on_many_threads_share_atomics() {
    let body = "mov.u32 %r1, 0;\nL:\nred.global.add.u32 [counter], 1;\nadd.u32 %r1, %r1, 1;\nsetp.lt.u32 %p1, %r1, 200;\n@%p1 bra L;";
    let module = parse(&kernel(".global .align 4 .u32 counter = 0;", body)).unwrap();
    for mode in [Mode::Fast, Mode::Checked] {
        let mut machine = Machine::new(mode);
        let p = machine.allocate(4096).unwrap().to_le_bytes();
        machine.launch(&module.kernels[0], [50, 1, 1], [64, 1, 1], 0, &[p, p].concat()).unwrap();
        let (address, _) = machine.variable(&module, "counter").unwrap();
        let mut out = [0; 4];
        machine.read(address, &mut out).unwrap();
        assert_eq!(u32::from_le_bytes(out), 50 * 64 * 200);
        assert!(machine.counters()["k"].warp_instructions > 50 * 2 * 200 * 4);
    }
}

// ---- Matrices and copies

#[test]
fn matrix_products_have_the_layout_of_the_hardware() {
    // a = 1 everywhere but a[0][0] = 2; b[k][n] = n: d[m][n] = 16 n, and d[0][n] = 17 n; c = 1.
    let code = "shr.u32 %r9, %lane, 2;\ncvt.rn.f32.u32 %f1, %r9;\ncvt.rn.bf16x2.f32 %r5, %f1, %f1;\nmov.u32 %r1, 0x3f803f80;\nmov.u32 %r2, %r1;\n\
                setp.eq.u32 %p1, %lane, 0;\n@%p1 mov.u32 %r2, 0x3f804000;\nmov.f32 %f2, 0f3F800000;\n\
                mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f4, %f5, %f6, %f7}, {%r2, %r1, %r1, %r1}, {%r5, %r5}, {%f2, %f2, %f2, %f2};\n\
                st.global.v4.f32 [%out], {%f4, %f5, %f6, %f7};";
    let out = run(32, "", code, &[]);
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for (index, bits) in out[lane][..4].iter().enumerate() {
            let (row, column) = (g + index / 2 * 8, 2 * t + index % 2);
            let expected = 1.0 + column as f32 * if row == 0 { 17.0 } else { 16.0 };
            assert_eq!(f32::from_bits(*bits), expected, "row {row} column {column}");
        }
    }
    let half = "mov.u32 %r1, 0x3c003c00;\nmma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%r4, %r5}, {%r1, %r1, %r1, %r1}, {%r1, %r1}, {%r1, %r1};";
    assert_eq!(lanes(32, "", half)[3], 0x4c40_4c40); // 17
    let tf32 = "mov.u32 %r1, 0x40000000;\nmov.f32 %f1, 0f00000000;\n\
                mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f4, %f5, %f6, %f7}, {%r1, %r1, %r1, %r1}, {%r1, %r1}, {%f1, %f1, %f1, %f1};\nmov.b32 %r4, %f5;";
    assert_eq!(lanes(32, "", tf32)[3], 32f32.to_bits());
}

#[test]
fn tiles_are_loaded_and_stored() {
    // Row r of an 8 x 8 tile holds 16 r + column.
    let fill = ".shared .align 16 .b8 room[512];\n.shared .align 16 .b8 other[512];\nmov.u32 %r20, room;\nmov.u32 %r21, other;\nshl.b32 %r1, %lane, 2;\n\
                shl.b32 %r2, %lane, 1;\nand.b32 %r2, %r2, 6;\nshr.u32 %r3, %lane, 2;\nshl.b32 %r3, %r3, 4;\nadd.u32 %r2, %r2, %r3;\nadd.u32 %r3, %r2, 1;\n\
                shl.b32 %r3, %r3, 16;\nor.b32 %r2, %r2, %r3;\nadd.u32 %r1, %r20, %r1;\nst.shared.u32 [%r1], %r2;\nbar.sync 0;\nand.b32 %r5, %lane, 7;\n\
                shl.b32 %r5, %r5, 4;\nadd.u32 %r6, %r20, %r5;\nadd.u32 %r7, %r21, %r5;\n";
    let plain = lanes(32, "", &format!("{fill}ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r4}}, [%r6];"));
    let turned = lanes(32, "", &format!("{fill}ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {{%r4}}, [%r6];"));
    let back = format!(
        "{fill}ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {{%r8}}, [%r6];\nstmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%r7], {{%r8}};\n\
                        bar.sync 0;\nldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r4}}, [%r7];"
    );
    let back = lanes(32, "", &back);
    for lane in 0..32u32 {
        let (row, column) = (lane / 4, lane % 4 * 2);
        assert_eq!(plain[lane as usize], (16 * row + column) | (16 * row + column + 1) << 16);
        assert_eq!(turned[lane as usize], (16 * column + row) | (16 * (column + 1) + row) << 16);
        assert_eq!(back[lane as usize], plain[lane as usize]);
    }
}

const COPY: &str = ".shared .align 16 .b8 room[1024];\nmov.u32 %r20, room;\nshl.b32 %r1, %lane, 4;\nadd.u32 %r1, %r20, %r1;\n\
                    cp.async.ca.shared.global [%r1], [%in], 16;\ncp.async.commit_group;\nWAIT\nld.shared.u32 %r4, [%r1+4];";

#[test]
fn copies_arrive_after_their_wait() {
    let store = "\nst.global.u32 [%out], %r4;";
    assert_eq!(run(32, "", &(COPY.replace("WAIT", "cp.async.wait_group 0;") + store), &[5, 6])[7][0], 6);
    assert_eq!(run(32, "", &(COPY.replace("WAIT", "cp.async.wait_all;") + store), &[5, 6])[7][0], 6);
    let partly = COPY.replace("[%in], 16;", "[%in], 16, 4;").replace("WAIT", "cp.async.wait_all;") + store;
    assert_eq!(run(32, "", &partly, &[5, 6])[7][0], 0);
    expect(FaultKind::AsyncCopy, "cp.async is still in flight", 32, "", &COPY.replace("WAIT", "cp.async.wait_group 1;"));
    let other = COPY.replace("WAIT", "cp.async.wait_all;\nxor.b32 %r1, %r1, 16;");
    expect(FaultKind::Race, "data race", 32, "", &other);
    run(32, "", &COPY.replace("WAIT", "cp.async.wait_all;\nbar.sync 0;\nxor.b32 %r1, %r1, 16;"), &[]);
}

// ---- Checks

#[test]
fn outside_and_misaligned() {
    expect(FaultKind::OutOfBounds, "4-byte read 1024 bytes into a buffer of 1024 bytes", 32, "", "ld.global.u32 %r4, [%in+32];");
    expect(FaultKind::OutOfBounds, "thread 31", 32, "", "ld.global.u32 %r4, [%in+32];");
    expect(FaultKind::OutOfBounds, "null pointer", 32, "", "mov.u64 %d1, 0;\nld.global.u32 %r4, [%d1+8];");
    expect(FaultKind::Misaligned, "misaligned 16-byte read", 32, "", "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%in+4];");
    let room =
        ".shared .align 4 .b8 room[124];\nmov.u32 %r20, room;\nshl.b32 %r1, %lane, 2;\nadd.u32 %r1, %r20, %r1;\nst.shared.u32 [%r1], 1;";
    expect(FaultKind::OutOfBounds, "thread 31", 32, "", room);
    expect(FaultKind::OutOfBounds, "local memory", 32, "", ".local .align 4 .b8 room[8];\nmov.u64 %d1, room;\nst.local.u32 [%d1+16], 1;");
    for body in ["ld.global.u32 %r4, [%in+32];", "ld.global.u64 %d1, [%in+4];", room] {
        assert!(try_run(Mode::Fast, 32, "", body, &[]).is_err(), "{body}");
    }
}

#[test]
fn never_written() {
    let room = ".shared .align 4 .b8 room[128];\nmov.u32 %r20, room;\n";
    expect(FaultKind::Uninitialised, "never written", 32, "", &format!("{room}ld.shared.u32 %r4, [%r20+4];"));
    expect(FaultKind::Uninitialised, "local array", 32, "", ".local .align 4 .b8 room[8];\nmov.u64 %d1, room;\nld.local.u32 %r1, [%d1];");
    expect(FaultKind::Uninitialised, "variable", 32, "", "setp.eq.u32 %p1, %lane, 3;\n@!%p1 mov.u32 %r4, 1;\nst.global.u32 [%out], %r4;");
    assert_eq!(lanes(32, "", "setp.eq.u32 %p1, %lane, 3;\n@%p1 mov.u32 %r4, 1;\n@!%p1 mov.u32 %r4, 2;")[3], 1);
    let mut machine = Machine::new(Mode::Checked);
    let a = machine.allocate(256).unwrap();
    machine.write(a, &[1; 100]).unwrap();
    assert!(machine.read(a, &mut [0; 100]).is_ok());
    let fault = machine.read(a, &mut [0; 101]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Uninitialised, "{fault}");
    let b = machine.allocate(256).unwrap();
    machine.copy(b + 3, a + 50, 100).unwrap();
    assert!(machine.read(b + 3, &mut [0; 50]).is_ok());
    assert!(machine.read(b + 3, &mut [0; 51]).is_err());
}

#[test]
fn races() {
    let room = ".shared .align 4 .b8 room[512];\nmov.u32 %r20, room;\nshl.b32 %r1, %lane, 2;\nadd.u32 %r1, %r20, %r1;\nst.shared.u32 [%r1], %lane;\nSYNC\nxor.b32 %r1, %r1, WHO;\nld.shared.u32 %r4, [%r1];";
    expect(FaultKind::Race, "read after a write by thread 1", 64, "", &room.replace("SYNC", "").replace("WHO", "4"));
    expect(FaultKind::Uninitialised, "never written", 64, "", &room.replace("SYNC", "bar.warp.sync 0xffffffff;").replace("WHO", "128"));
    assert_eq!(lanes(64, "", &room.replace("SYNC", "bar.warp.sync 0xffffffff;").replace("WHO", "4"))[8], 9);
    assert_eq!(lanes(64, "", &room.replace("SYNC", "bar.sync 0;").replace("WHO", "128"))[8], 40);
    let overwrite = room.replace("SYNC", "bar.sync 0;").replace("WHO", "128") + "\nst.shared.u32 [%r20], 1;";
    expect(FaultKind::Race, "write after a", 64, "", &overwrite);
    // Between blocks, and through a pointer that promises not to be written.
    let launch = |body: &str, blocks: u32| {
        let module = parse(&kernel("", body)).unwrap();
        let mut machine = Machine::new(Mode::Checked);
        let p = machine.allocate(4096).unwrap();
        machine.fill(p, &[0], 4096).unwrap();
        machine.launch(&module.kernels[0], [blocks, 1, 1], [32, 1, 1], 0, &[p.to_le_bytes(), p.to_le_bytes()].concat())
    };
    assert!(launch("st.global.u32 [%out], %lane;", 1).is_ok());
    let fault = launch("st.global.u32 [%out], %lane;", 2).unwrap_err();
    assert!(fault.kind == FaultKind::Race && fault.message.contains("of another block"), "{fault}");
    assert!(launch("red.global.add.u32 [%out], 1;", 2).is_ok());
    assert_eq!(launch("ld.global.nc.u32 %r1, [%in];\nst.global.u32 [%out], %r1;", 1).unwrap_err().kind, FaultKind::ReadOnly);
    assert!(launch("ld.global.u32 %r1, [%in];\nst.global.u32 [%out], %r1;", 1).is_ok());
}

#[test]
fn pieces_of_a_pool() {
    let module = parse(&kernel("", "ld.global.u32 %r1, [%in];\nst.global.u32 [%out], %r1;")).unwrap();
    let mut machine = Machine::new(Mode::Checked);
    let arena = machine.allocate(1 << 16).unwrap();
    let (a, b) = (arena, arena + 4096);
    let launch =
        |machine: &mut Machine| machine.launch(&module.kernels[0], [1; 3], [32, 1, 1], 0, &[a.to_le_bytes(), b.to_le_bytes()].concat());
    machine.mark(a, 1024).unwrap();
    machine.mark(b, 1024).unwrap();
    assert_eq!(launch(&mut machine).unwrap_err().kind, FaultKind::Uninitialised);
    machine.fill(a, &[7], 1024).unwrap();
    launch(&mut machine).unwrap();
    assert!(machine.write(a, &[0; 1025]).is_err());
    machine.release(b).unwrap();
    let fault = launch(&mut machine).unwrap_err();
    assert!(fault.kind == FaultKind::Freed && fault.message.contains("given back"), "{fault}");
    machine.mark(b, 992).unwrap();
    let fault = launch(&mut machine).unwrap_err();
    assert!(fault.kind == FaultKind::OutOfBounds && fault.message.contains("992 bytes into a buffer of 992 bytes"), "{fault}");
    assert!(machine.release(b + 8).is_err());
    machine.free(arena).unwrap();
    let fault = launch(&mut machine).unwrap_err();
    assert!(fault.kind == FaultKind::Freed && fault.message.contains("freed"), "{fault}");
    assert_eq!(machine.memory(), (16 << 30, 16 << 30));
    assert!(machine.allocate(17 << 30).is_none());
}

#[test]
fn launches_are_checked() {
    let module = parse(&kernel("", "").replace(".maxntid 1024", ".maxntid 64")).unwrap();
    let mut machine = Machine::new(Mode::Fast);
    let mut launch = |grid, block, dynamic, bytes: usize| machine.launch(&module.kernels[0], grid, block, dynamic, &vec![0; bytes]);
    assert!(launch([1; 3], [64, 1, 1], 0, 16).is_ok());
    for fault in [
        launch([1; 3], [65, 1, 1], 0, 16),
        launch([0, 1, 1], [1; 3], 0, 16),
        launch([1; 3], [1; 3], 0, 8),
        launch([1; 3], [1; 3], 300_000, 16),
    ] {
        assert_eq!(fault.unwrap_err().kind, FaultKind::Launch);
    }
    assert!(parse(&kernel("", "frobnicate.b32 %r1, %r2;")).unwrap_err().message.contains("unsupported instruction frobnicate.b32"));
}

#[test]
fn requests_are_counted() {
    let count = |body: &str| {
        let module = parse(&kernel("", body)).unwrap();
        let mut machine = Machine::new(Mode::Checked);
        let p = machine.allocate(1 << 16).unwrap();
        machine.fill(p, &[0], 1 << 16).unwrap();
        machine.launch(&module.kernels[0], [1; 3], [32, 1, 1], 0, &[p.to_le_bytes(), p.to_le_bytes()].concat()).unwrap();
        machine.counters()["k"]
    };
    let row = count("ld.param.u64 %d1, [k_in];\nmul.wide.u32 %d2, %lane, 4;\nadd.s64 %d1, %d1, %d2;\nld.global.u32 %r1, [%d1];");
    assert_eq!((row.global_requests, row.global_sectors, row.ideal_sectors), (1, 4, 4));
    let strided = count("ld.global.u32 %r1, [%in];");
    assert_eq!((strided.global_sectors, strided.ideal_sectors), (32, 4));
    let room = ".shared .align 4 .b8 room[4096];\nmov.u32 %r20, room;\nshl.b32 %r1, %lane, SHIFT;\nadd.u32 %r1, %r20, %r1;\nst.shared.u32 [%r1], 1;";
    let (good, bad) = (count(&room.replace("SHIFT", "2")), count(&room.replace("SHIFT", "7")));
    assert_eq!((good.shared_requests, good.bank_cycles, good.ideal_bank_cycles), (1, 1, 1));
    assert_eq!((bad.bank_cycles, bad.ideal_bank_cycles), (32, 1));
    assert_eq!(count("mov.f32 %f1, 0f00000000;\nfma.rn.f32 %f2, %f1, %f1, %f1;\nadd.f32 %f3, %f2, %f1;").flops, 96);
}

#[test]
fn partial_masks_keep_lanes_in_step() {
    let room = ".shared .align 4 .b8 room[128];\nmov.u32 %r20, room;\nshl.b32 %r1, %lane, 2;\nadd.u32 %r1, %r20, %r1;\nmov.u32 %r4, 0;\nsetp.gt.u32 %p1, %lane, 15;\n\
                @%p1 bra E;\nst.shared.u32 [%r1], %lane;\nbar.warp.sync 0xffff;\nxor.b32 %r1, %r1, 4;\nld.shared.u32 %r4, [%r1];\n\
                shfl.sync.bfly.b32 %r4, %r4, 8, 31, 0xffff;\nE:";
    assert_eq!(lanes(32, "", room)[..18], [9, 8, 11, 10, 13, 12, 15, 14, 1, 0, 3, 2, 5, 4, 7, 6, 0, 0]);
}

#[test]
fn a_guarded_shuffle_waits_for_its_lanes() {
    let code = "setp.lt.u32 %p1, %lane, 8;\nmov.u32 %r4, 0;\n@%p1 shfl.sync.bfly.b32 %r4, %lane, 1, 31, 0xff;";
    assert_eq!(lanes(32, "", code)[..9], [1, 0, 3, 2, 5, 4, 7, 6, 0]);
}

#[test]
fn a_mode_may_change_while_memory_lives() {
    let module = parse(&kernel("", "ld.global.u32 %r1, [%in];\nst.global.u32 [%out], %r1;")).unwrap();
    let mut machine = Machine::new(Mode::Fast);
    let (plain, arena) = (machine.allocate(1024).unwrap(), machine.allocate(4096).unwrap());
    machine.mark(arena, 1024).unwrap();
    machine.mark(arena + 1024, 1024).unwrap();
    machine.release(arena + 1024).unwrap();
    machine.set_mode(Mode::Checked);
    let mut launch = |to: u64| machine.launch(&module.kernels[0], [1; 3], [32, 1, 1], 0, &[plain.to_le_bytes(), to.to_le_bytes()].concat());
    assert!(launch(arena).is_ok());
    assert_eq!(launch(arena + 1024).unwrap_err().kind, FaultKind::Freed);
    assert_eq!(launch(arena + 2048).unwrap_err().kind, FaultKind::OutOfBounds);
}

#[test]
fn halves_share_words_without_a_race() {
    let room = ".shared .align 4 .b8 room[64];\nmov.u32 %r20, room;\nshl.b32 %r1, %lane, 1;\nadd.u32 %r1, %r20, %r1;\ncvt.u16.u32 %h1, %lane;\nst.shared.u16 [%r1], %h1;\n\
                ld.shared.u16 %h2, [%r1];\nbar.sync 0;\nxor.b32 %r1, %r1, 2;\nld.shared.u16 %r4, [%r1];";
    assert_eq!(lanes(32, "", room), (0..32).map(|lane| lane ^ 1).collect::<Vec<_>>());
    expect(FaultKind::Race, "data race", 32, "", &room.replace("bar.sync 0;\n", ""));
}

#[test]
fn registers_share_rows() {
    let chain: String = (1..1000).map(|n| format!("add.u32 %q{n}, %q{}, %lane;\n", n - 1)).collect();
    let body = format!(".reg .b32 %q<1000>;\nmov.u32 %q0, 0;\n{chain}st.global.u32 [%out], %q999;");
    let module = parse(&kernel("", &body)).unwrap();
    assert!(module.kernels[0].program.rows < 24, "{}", module.kernels[0].program.rows);
    assert_eq!(run(32, "", &body, &[])[3][0], 3 * 999);
}
