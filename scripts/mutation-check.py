#!/usr/bin/env python3
"""Row 16: each verification and each fsync is removed in turn, and at least one test must fail, every time.

A mutant is a text of the source and what takes its place; a text that is gone or is there twice is an error, so that
the list follows the source. Everything happens in a copy of the tree below target/mutation; one build folder for all.
What came of each is kept beside it, so that a run of some brings the page up to date: target/reliability/full/row-16.md.

    scripts/mutation-check.py              every mutant
    scripts/mutation-check.py NAME ...     some
    scripts/mutation-check.py --list
    scripts/mutation-check.py --check      only whether the list fits the source
"""

import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TREE = ROOT / "target/mutation/tree"
BUILD = ROOT / "target/mutation/build"
RESULTS = ROOT / "target/mutation/results.json"

# name: (file, text, instead, tests that should notice: filters for the integration tests; everything is run if none fails)
MUTANTS = {
    # verifications: blobs
    "blob digest": ("src/verify.rs", "if actual != self.digest {", "if false && actual != self.digest {", "--lib verify"),
    "blob longer": ("src/verify.rs", "if further != 0 {", "if false && further != 0 {", "--lib verify"),
    "blob digest after an interruption": (
        "src/verify.rs",
        "Err(error) if error.kind() == io::ErrorKind::Interrupted => {}",
        "Err(error) if error.kind() == io::ErrorKind::Interrupted => return self.hasher.take().map_or(Ok(()), |_| Err(error)),",
        "--lib verify",
    ),
    "blob shorter": (
        "src/verify.rs",
        "            return Err(self.corrupt(format!(\"it ends after",
        "            self.left = 0;\n            return Ok(0);\n            #[allow(unreachable_code)]\n"
        "            return Err(self.corrupt(format!(\"it ends after",
        "--lib verify",
    ),
    # filesystems and limits
    "zero blocks of a copy stay holes": ("src/layer/clone.rs", "for (run, _) in runs(part, at).filter(|(_, held)| *held == Held::Data) {", "for (run, _) in runs(part, at) {", "--lib clone"),
    "the plan of a folder that cannot be renamed is durable": ("src/fixed_folder.rs", "        file.sync_all().context(\"fsync\", &part)?;\n", "", "fixed_folders"),
    "the plan's name is durable": ("src/fixed_folder.rs", "        sync(moving)?;\n        sync(root)\n", "        sync(moving)\n", "fixed_folders"),
    "the marks have moved durably": ("src/fixed_folder.rs", "        sync(old)?;\n        sync(folder)\n    }\n\n    /// Moves the marks back", "        sync(folder)\n    }\n\n    /// Moves the marks back", "fixed_folders"),
    "a replaced folder's name is durable": ("src/fixed_folder.rs", "        fs::rename(&new, target).context(\"rename over\", target)?;\n        sync(above)\n", "        fs::rename(&new, target).context(\"rename over\", target)\n", "fixed_folders"),
    "marks move before anything else": ("src/fixed_folder.rs", "let placed = plan.hide(target, &old).and_then(", "let placed = Ok(()).and_then(", "fixed_folders"),
    "a folder that nothing was decided about is what it was": ("src/fixed_folder.rs", "        if plan.marks_in(&target)? {\n", "        if false {\n", "fixed_folders"),
    "what came after a dead run stays": ("src/fixed_folder.rs", "return if plan.is_decided(&old)? { Ok(()) }", "return if false { Ok(()) }", "fixed_folders"),
    "a replacement in use is not completed": ("src/fixed_folder.rs", "let Some(_claim) = claim(&target)? else { return Ok(()) };", "let _claim = claim(&target)?;", "fixed_folders"),
    "immutable files keep a snapshot from removal": ("src/remove.rs", "try_for_each(|path| immutable::refuse(\"remove\", &path))", "try_for_each(|_| Ok(()))", "limits::immutable"),
    "immutable files keep a snapshot from force": ("src/import/mod.rs", "                    immutable::refuse(\"replace\", &snapshot.target.path)?;\n", "", "limits::immutable"),
    "immutable files keep a snapshot from repair": ("src/repair.rs", "if let Err(error) = immutable::refuse(\"replace\", &bad.directory) {", "if let Err(error) = Ok::<_, Error>(()) {", "limits::immutable"),
    "immutable files keep a layout from force": ("src/layout/publish.rs", "immutable::refuse(\"replace\", path)", "Ok(())", "limits::immutable"),
    "nothing temporary in append-only folders": ("src/temporary.rs", "    immutable::refuse_temporary_in(parent)?;\n", "", "limits::immutable"),
    "a zstd window": ("src/zstd_input.rs", "if self.window <= most.0 {", "if true {", "--lib zstd_input"),
    "a zstd frame that is cut": ("src/zstd_input.rs", "if self.is_inside && is_end {", "if self.is_inside && is_end {\n                return Ok(0);\n            }\n            if false {", "--lib zstd_input"),
    "a file over the limit of sizes is no signal": ("src/cli/mod.rs", "        let _ = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()));\n", "", "limits::large_files"),
    # verifications: removals in groups of msb
    "a head stays while others stay": ("src/remove/groups.rs", "return Err(Error::HeadStays { group: self.name.to_string(), head });", "return Ok(());", "remove_groups"),
    "a removed head is cleared first": ("src/remove.rs", "        groups.apply()?;\n", "", "remove_groups"),
    "a snapshot in use stays": ("src/remove.rs", "claims.push(DeletionLease::try_claim(path)?.ok_or_else(in_use)?);", "claims.extend(DeletionLease::try_claim(path)?);", "remove_groups"),
    "a sandbox keeps its image": ("src/remove/prune.rs", "pruned.retain(|image| !needs(image));", "pruned.retain(|_| true);", "remove_groups"),
    "a cache file in use stays": ("src/remove/prune.rs", "                    files.clear();\n", "", "remove_groups"),
    "an open database is read with its WAL": ("src/store/sandboxes.rs", "if is_open { \"mode=ro\" }", "if false { \"mode=ro\" }", "--lib sandboxes"),
    "a database is left without a WAL": ("src/store/sandboxes.rs", "\"mode=ro&immutable=1\"", "\"mode=ro\"", "--lib sandboxes"),
    "image leases until msb knows": ("src/import/mod.rs", "let leases = cache.as_ref().map(|cache| cache.lease(options.progress.as_ref())).transpose()?;", "let leases = ();", "index"),
    "an export leases what it reads": ("src/export.rs", "        self.readers.extend(reader);\n", "        drop(reader);\n", "remove_groups"),
    "a head that is gone is found": ("src/check/groups.rs", "Ok(GroupFile::Head(head)) if is_there(&folder.join(&head))? => {}", "Ok(GroupFile::Head(_)) if true => {}", "check_groups"),
    "a name that two have is found": ("src/check/groups.rs", "if let Some(other) = names.get(&name) {", "if let (false, Some(other)) = (true, names.get(&name)) {", "check_groups"),
    "a relative entry of PATH": ("src/store/index.rs", ".filter(|f| f.is_absolute())", "", "--lib index"),
    # verifications: what is said
    "what is not ours to read may be meant": (
        "src/snapshot/mod.rs",
        "if !matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)",
        "if !matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::NotFound | ErrorKind::NotADirectory)",
        "truth::permissions",
    ),
    "a hidden parent is not missing": ("src/store/lookup.rs", "            if let Some(error) = hidden {", "            if let Some(error) = hidden.filter(|error| !error.is_denied()) {", "truth::permissions"),
    "a check that could not read is not good": ("src/cli/check.rs", "            Err(Error::Incomplete { count })", "            let _ = count; Ok(())", "truth::permissions"),
    "a source is verified on demand": ("src/import/mod.rs", "        if options.verify_source {", "        if false {", "truth::unread"),
    "a file that the bundle has otherwise": ("src/check/vouched.rs", "Ok(root) if root == row.root.to_string() && file.size == row.size => {}", "Ok(_) if true => {}", "truth::unread"),
    "a snapshots folder is no store": ("src/store/root.rs", "if visible(holds_one())? {", "if false && visible(holds_one())? {", "truth::stores"),
    "a push that asks is a push": ("src/registry/repository.rs", "        match self.scope.pushes() {", "        match false && self.scope.pushes() {", "registry::said"),
    "a name is a snapshot, whatever is beside it": ("src/cli/argument.rs", "    if !is_path(argument) {", "    if !is_path(argument) && !Path::new(argument).exists() {", "truth::names"),
    # verifications: documents
    "layers of manifest and config": (
        "src/bundle.rs", "if layer.digest != record.digest() {", "if false {", "hardening corruption layout_checks",
    ),
    "subject is the parent": (
        "src/bundle.rs",
        "&& !child.is_child_of(&snapshot)",
        "&& false && !child.is_child_of(&snapshot)",
        "hardening layout_checks",
    ),
    "descriptor is the config's": ("src/bundle.rs", "if !same {", "if false {", "hardening layout_checks"),
    # verifications: the two sides of a migration
    "what comes migrates to what is there": (
        "src/same.rs",
        "incoming()?.is_some_and(|descriptor| descriptor.is_same_snapshot(existing))",
        "incoming()?.is_some()",
        "layouts::migrated",
    ),
    "of two descriptors one is the other one migrated": (
        "src/snapshot/mod.rs",
        "if migrated.is_none_or(|migrated| migrated.digest != descriptor.digest) {",
        "if false && migrated.is_none() {",
        "layouts::migrated",
    ),
    "the disk of a migrated snapshot": (
        "src/same.rs",
        "|| stands(&row.path)).unwrap_or(&row.path)));",
        "|| stands(&row.path)).unwrap_or(&row.path)));\n        rows.retain(|(row, _)| Some(&row.path) != record.disk.as_ref());",
        "layouts::migrated",
    ),
    "a file where a folder must be": (
        "src/snapshot/scan.rs", ".find(|path| is_file(path)) {", ".find(|path| false && is_file(path)) {", "layouts::shapes",
    ),
    "a file in a bundle where a folder must be": (
        "src/bundle.rs", ".find(|path| self.config.is_file(path)) {", ".find(|path| false && self.config.is_file(path)) {", "hardening::paths",
    ),
    "a folder that must be there": ("src/check/closure.rs", "                Ok(None) => {\n                    self.report(\"folder-missing\"", "                Ok(None) => {}\n                Ok(None) => {\n                    self.report(\"folder-missing\"", "layouts::shapes"),
    # verifications: files
    "root of a restored file": (
        "src/restore.rs", "if found.root != row.root || size != row.size {", "if false {", "lies",
    ),
    "data bytes and mode": (
        "src/restore.rs",
        "if found.data_bytes != row.data_bytes || (meta",
        "if false && (meta",
        "lies",
    ),
    "root of a cache file": ("src/restore.rs", "if found.root != file.root {", "if false {", "lies"),
    # verifications: full snapshots, owned volumes, qcow2 layers
    "full: at an export": ("src/export.rs", "closure::require(&snapshot.descriptor, &snapshot.directory, &members, jobs, progress)?;", "let _: (closure::Members, _, _) = (members, jobs, progress);", "damage"),
    "full: at an import": ("src/settle.rs", "closure::require(&descriptor, name, &members, self.jobs, &Silent)?;", "let _: (closure::Members, _) = (members, name);", "damage"),
    "full: at verify --deep": ("src/deep/restored.rs", "if !closure::has_closure(descriptor) {", "if true {", "damage"),
    "full: at a check": ("src/check/closure.rs", "damages.iter().for_each(|damage| self.damage(directory, damage));\n        unreferenced", "drop(damages);\n        unreferenced", "damage"),
    "full: root of the checkpoint": ("src/snapshot/closure/mod.rs", "if digest.to_string() != state.checkpoint_root {", "if false {", "damage"),
    "full: digest of a document": ("src/snapshot/closure/mod.rs", "if actual != *digest {", "if false {", "damage"),
    "full: digest of an object": ("src/snapshot/closure/mod.rs", "(Ok(actual), Ok(found)) if actual != hash.expected.hex() => {", "(Ok(actual), Ok(found)) if false && actual != hash.expected.hex() => {", "damage"),
    "full: a named file is there": ("src/snapshot/closure/mod.rs", "if found.is_none() {", "if false {", "damage"),
    "full: memory lies in its objects": ("src/snapshot/closure/mod.rs", "if file.size < least {", "if false {", "damage"),
    "full: owned volumes of descriptor and checkpoint": ("src/snapshot/closure/mod.rs", "if checkpoint.owned_volumes != owned {", "if false {", "damage"),
    "full: owned disks are among the disks": ("src/snapshot/closure/mod.rs", "&& !volumes.values().any(|disk| disk == generation)", "&& false", "damage"),
    "full: size of an owned file": ("src/snapshot/closure/mod.rs", "if file.size != payload.bytes {", "if false {", "damage"),
    "full: files that nothing names": ("src/snapshot/closure/mod.rs", "if closed {\n        look.unreferenced()?;", "if false {\n        look.unreferenced()?;", "damage"),
    "full: limit of documents": ("src/snapshot/closure/mod.rs", "if file.size > MAX_MANIFEST {", "if false {", "damage"),
    "full: limit of states": ("src/snapshot/closure/mod.rs", "if let Some(limit) = limit.filter(|limit| file.size > *limit) {", "if let Some(limit) = limit.filter(|_| false) {", "damage"),
    "full: one volume twice": ("src/snapshot/closure/mod.rs", "Ok(disk) if volumes.contains_key(&disk.volume_id) => {", "Ok(disk) if false && volumes.contains_key(&disk.volume_id) => {", "damage"),
    "full: size of a disk layer": ("src/snapshot/closure/disks.rs", "if file.size != layer.file_size {", "if false {", "damage"),
    "full: root of a disk layer": ("src/snapshot/closure/disks.rs", "if actual != expected {", "if false {", "damage"),
    "full: qcow2 size": ("src/snapshot/closure/disks.rs", "if header.virtual_size != size {", "if false {", "damage"),
    "full: qcow2 backing": ("src/snapshot/closure/disks.rs", "if let Some(reason) = wrong {", "if let Some(reason) = wrong.filter(|_| false) {", "damage"),
    "full: canonical documents": ("src/snapshot/checkpoint.rs", "if canonical != bytes {", "if false {", "damage"),
    "full: parts of one pause": ("src/snapshot/checkpoint.rs", "if pause == self.pause_generation {", "if true {", "damage"),
    "full: architecture of the memory": ("src/snapshot/checkpoint.rs", "if memory.architecture != self.architecture {", "if false {", "damage"),
    "full: ranges of the memory": ("src/snapshot/checkpoint.rs", "if *length == 0 || *start < end {", "if false {", "damage"),
    "full: resources of owned volumes": ("src/snapshot/checkpoint.rs", "self.validate_bindings()?;", "", "damage"),
    "full: geometry": ("src/snapshot/checkpoint.rs", "if vcpus == 0 || vcpus > max_vcpus || memory_mib == 0 || memory_mib > max_memory_mib {", "if false {", "damage"),
    "full: limit of components": ("src/snapshot/checkpoint.rs", "if count > MAX_COMPONENTS {", "if false {", "damage"),
    "full: one device twice": ("src/snapshot/checkpoint.rs", "self.devices.iter().find(|d| !devices.insert(", "self.devices.iter().find(|d| false && !devices.insert(", "damage"),
    "full: one resource twice": ("src/snapshot/checkpoint.rs", "|| !resources.insert(&resource.id) {", "|| !(resources.insert(&resource.id) || true) {", "damage"),
    "full: a rejected resource": ("src/snapshot/checkpoint.rs", "if resource.treatment == Treatment::Reject {", "if false {", "damage"),
    "full: requires are sorted": ("src/snapshot/checkpoint.rs", "if self.requires.windows(2).any(|pair| pair[0] >= pair[1]) {", "if false {", "damage"),
    "full: schema of a document": ("src/snapshot/checkpoint.rs", "if of(&document) != schema {", "if false {", "damage"),
    "full: frame of a shared folder's state": ("src/snapshot/closure/mod.rs", "if device.is_shared_folder() {", "if false {", "damage"),
    "device state: its end": ("src/snapshot/device_state.rs", "if own != left {", "if false {", "--lib device_state"),
    "device state: limit of others": ("src/snapshot/device_state.rs", "if device != VIRTIO_FS && (own > MAX_OTHER || size > MAX_OTHER_FILE) {", "if false {", "--lib device_state"),
    "device state: lengths": ("src/snapshot/device_state.rs", "length if length <= most => Ok(length as usize),", "length if length <= most || length > 0 => Ok(length as usize),", "--lib device_state"),
    "qcow2: external data": ("src/snapshot/qcow2.rs", "if features & EXTERNAL_DATA != 0 {", "if false {", "--lib qcow2"),
    "qcow2: incompatible features": ("src/snapshot/qcow2.rs", "if features != 0 {", "if false {", "--lib qcow2"),
    "qcow2: name of the backing file": ("src/snapshot/qcow2.rs", "if size == 0 || size > MAX_BACKING || start < header {", "if false {", "--lib qcow2"),
    "qcow2: first cluster": ("src/snapshot/qcow2.rs", "if !(9..=21).contains(&bits) {", "if false {", "--lib qcow2"),
    "recorded integrity": ("src/recorded.rs", "if actual == recorded.value {", "if true {", "layout_checks round_trip"),
    # verifications: the source of an export
    "source unchanged": (
        "src/packed.rs",
        "if stamp(&file.file, &file.source.absolute)? != file.stamp {",
        "if false {",
        "lies",
    ),
    "second pass saw the first's bytes": ("src/layer/encode.rs", "if file.sum != sum {", "if false {", "lies"),
    "the bound of a look at a layer": (
        "src/layer/pick.rs", "blob.take(most.saturating_add(most >> 6))", "blob.take(u64::MAX)", "--lib decode",
    ),
    # verifications: what a failing disk hides
    "an alias that cannot be read": (
        "src/snapshot/mod.rs", "        Err(error) => return Err(error),\n    };\n    let alias", "        Err(_) => return Ok(None),\n    };\n    let alias", "failing_disk",
    ),
    "a head that cannot be read": (
        "src/store/lookup.rs", "            member => members.push(member?),", "            member => members.extend(member.ok()),", "--lib lookup",
    ),
    "an exchange is tried before anything is placed": (
        "src/import/mod.rs", "                    stage.check_exchange(&snapshot.target.path)?;\n", "", "durability",
    ),
    "an exchange is tried before a repair": (
        "src/repair.rs", "if let Err(error) = stage.check_exchange(&bad.directory) {", "if let (true, Err(error)) = (false, stage.check_exchange(&bad.directory)) {", "durability",
    ),
    "another image's metadata is not pruned": (
        "src/remove/prune.rs", "filter(|path| !path.as_str().starts_with(\"manifests/\"))", "filter(|_| true)", "remove",
    ),
    "a group that cannot be looked into": (
        "src/import/targets.rs", "        if seen(is_folder(&path))? {", "        if seen(is_folder(&path)).unwrap_or(false) {", "failing_disk",
    ),
    "a record that cannot be read, and pruning": (
        "src/remove/prune.rs", "        })?;\n        needed.extend(record", "        }).unwrap_or_default();\n        needed.extend(record", "remove",
    ),
    "leftovers that cannot be looked for": ("src/store/place.rs", "    if !is_there(destination)? {\n        return Ok(Vec::new());", "    if !destination.exists() {\n        return Ok(Vec::new());", "failing_disk"),
    # thin bundles
    "layers that are left out are known first": (
        "src/import/needed.rs", "if needed && !source.exists(layer)? {", "if false && needed && !source.exists(layer)? {", "since",
    ),
    "a thin base does not have what it names": (
        "src/since.rs", "if blobs.contains_key(&layer.digest) || !source.exists(layer)? {", "if blobs.contains_key(&layer.digest) {", "since",
    ),
    "a base is compared by digest": (
        "src/since.rs", "self.may_have(layer) && blobs.get(&made.digest) == Some(&made.size)", "self.may_have(layer) && !blobs.is_empty()", "since",
    ),
    "a thin bundle does not replace its base": (
        "src/export.rs", "(Ok(base), Ok(path)) if base == path =>", "(Ok(base), Ok(path)) if false && base == path =>", "since",
    ),
    "a thin bundle is not verified as whole": (
        "src/cli/verify.rs", "all(|f| f.code == BASE_NEEDED) => Err(Error::NotWhole { count }),", "all(|f| f.code == BASE_NEEDED) => Ok(()),", "since",
    ),
    "a registry must have what is left out": ("src/copy.rs", "if !target.contains(&Descriptor::new(", "if false && !target.contains(&Descriptor::new(", "registry::thin"),
    # layouts that are added to, and syncs
    "a blob that is there is hashed": (
        "src/layout/onto.rs", "Err(Error::MissingBlob { .. } | Error::CorruptBlob { .. }) => return Ok(false),", "Err(Error::MissingBlob { .. } | Error::CorruptBlob { .. }) => return Ok(false),\n            Ok(_) if true => return Ok(true),", "onto",
    ),
    "one at a time adds to a layout": (
        "src/layout/onto.rs", "retry_on_intr(|| flock(&folder, FlockOperation::LockExclusive)).context(\"lock\", path)?;", "", "onto",
    ),
    "the index of now is merged": (
        "src/layout/onto.rs", "let now = DirSource::open(&self.path)?;\n        let context", "let now = &self.layout;\n        let context", "onto",
    ),
    "a tag is not moved without force": (
        "src/layout/onto.rs", "others.first().filter(|_| !force)", "others.first().filter(|_| false)", "onto",
    ),
    "fsync of an added blob": ("src/layout/onto.rs", "            self.output.sync().context(\"fsync\", &self.path)?;\n", "            self.output.flush().context(\"write\", &self.path)?;\n", "durability"),
    "fsync of a merged index": ("src/layout/onto.rs", "    file.sync_all().context(\"fsync\", path)\n}", "    Ok(())\n}", "durability"),
    "fsync of folders that were added to": (
        "src/layout/onto.rs", "            sync_folder(&self.path.join(folder))?;\n", "            let _ = folder;\n", "durability",
    ),
    "fsync of a layout that was added to": (
        "src/layout/onto.rs", "Ok(()) => sync_folder(&self.path).inspect_err(", "Ok(()) => Ok::<(), Error>(()).inspect_err(", "durability",
    ),
    "blobs that nothing names go": ("src/layout/onto.rs", "            if is_new {\n", "            if false && is_new {\n", "durability"),
    "a host is no option": ("src/sync/remote.rs", "!text.is_empty() && !text.starts_with('-') &&", "!text.is_empty() &&", "sync"),
    "words for another shell are quoted": ("src/sync/remote.rs", "    if !word.is_empty() && word.chars().all(safe) {", "    if !word.is_empty() {", "sync"),
    "what the other side says is escaped": (
        "src/sync/remote.rs", "c if c.is_control()", "c if false && c.is_control()", "sync",
    ),
    # what an end by a signal leaves
    "signals are heeded before the work": (
        "src/cli/mod.rs",
        "        let mut signals = EndSignals::heed();\n        let work = on_a_thread(move || dispatch(cli.verb));\n",
        "        let work = on_a_thread(move || dispatch(cli.verb));\n        let mut signals = EndSignals::heed();\n",
        "signals",
    ),
    "what is temporary goes with a signal": (
        "src/cli/mod.rs", "on_a_thread(snapcask::temporary::abandon)", "on_a_thread(|| {})", "signals",
    ),
    "nothing is published after an end": (
        "src/temporary.rs", "        std::mem::forget(self.gate.write()", "        drop(self.gate.write()", "--lib temporary",
    ),
    "a demo makes nothing after its end": (
        "src/cli/demo/make.rs", "temporary::publish(|| fs::create_dir_all(folder))", "fs::create_dir_all(folder)", "signals",
    ),
    # fsyncs: import
    "fsync of staged files": (
        "src/store/place.rs",
        "File::open(&path).context(\"open\", &path)?.sync_all().context(\"fsync\", &path)?;",
        "",
        "durability",
    ),
    "fsync of staged folders": (
        "src/store/place.rs",
        "    }\n    sync_folder(folder)\n}\n\n/// Makes the names in a folder durable.",
        "    }\n    Ok(())\n}\n\n/// Makes the names in a folder durable.",
        "durability",
    ),
    "sync of the stage": ("src/import/mod.rs", "        stage.sync()?;\n", "", "durability"),
    "sync of the cache's stage": ("src/import/mod.rs", "        cache.iter().try_for_each(StagedCache::sync)?;\n", "", "durability"),
    "fsync after a name appears in a store": (
        "src/store/place.rs",
        "        self.folder.sync().inspect_err(|_| {\n            let _ = renameat_with(",
        "        Ok::<(), Error>(()).inspect_err(|_| {\n            let _ = renameat_with(",
        "durability",
    ),
    "fsync after an exchange in a store": (
        "src/store/place.rs",
        "self.folder.sync().map_err(|error| match self.rename(",
        "Ok::<(), Error>(()).map_err(|error| match self.rename(",
        "durability",
    ),
    "a name in a store is taken back": (
        "src/store/place.rs",
        "            let _ = renameat_with(self.folder.handle(), &self.name, CWD, staged, RenameFlags::NOREPLACE);\n",
        "",
        "durability",
    ),
    "an exchange in a store is taken back": (
        "src/store/place.rs",
        "self.folder.sync().map_err(|error| match self.rename(staged, RenameFlags::EXCHANGE) {",
        "self.folder.sync().map_err(|error| match Ok::<(), Errno>(()) {",
        "durability",
    ),
    "what cannot be exchanged back stays": (
        "src/temporary.rs", "    forget(ours);\n", "", "durability::what_cannot",
    ),
    "a file without rename flags is taken back": (
        "src/store/place.rs", "false => unlinkat(folder, name, AtFlags::empty()),", "false => Ok(()),", "durability",
    ),
    "fsync of new folders": ("src/store/place.rs", "Some(above) => sync_folder(above),", "Some(_) => Ok(()),", "durability"),
    "fsync of a group's and member's new files": (
        "src/store/group.rs", "    file.write_all(bytes).context(\"write\", path)?;\n    file.sync_all().context(\"fsync\", path)\n}", "    file.write_all(bytes).context(\"write\", path)\n}", "durability",
    ),
    "fsync of a group's files that are replaced": (
        "src/store/group.rs", ".and_then(|()| file.sync_all().context(\"fsync\", &temporary))", "", "durability",
    ),
    "fsync of a group's folder after its head": (
        "src/store/group.rs", "    renamed?;\n    super::place::sync_folder(folder)", "    renamed", "durability",
    ),
    "fsync of a new group's folder": (
        "src/store/group.rs", "    lock.sync_all().context(\"fsync\", &path)?;\n    super::place::sync_folder(folder)", "    lock.sync_all().context(\"fsync\", &path)", "durability",
    ),
    "a group's name is given once": ("src/store/group.rs", "            name.as_ref().and_then(|name| members.values()", "            name.as_ref().filter(|_| false).and_then(|name| members.values()", "groups"),
    "a member's folder is its id": ("src/store/group.rs", "Some(member) if directory.file_name().is_some_and(|name| *name == *member.id) => {", "Some(member) => {", "groups"),
    "a head is a member": ("src/import/place.rs", "        group.check_head()?;\n", "", "groups"),
    "one id, one descriptor in a group": ("src/import/place.rs", "Some(existing) if existing.digest != member.digest => {", "Some(existing) if false && existing.digest != member.digest => {", "groups"),
    "metadata that contradicts what comes": ("src/image_tags.rs", "&& !metadata.contradicts(incoming) =>", "=>", "hardening::poisoned"),
    "what another tool placed in a group": ("src/import/place.rs", ".try_for_each(|folder| sync_if_ours(folder, Path::new(GROUP_FILE)))?;", ".try_for_each(|_| Ok::<(), Error>(()))?;", "durability"),
    "no circle of parents in a group": ("src/store/head.rs", "            if !chain.insert(at) || chain.len() > MAX_DEPTH {\n                return Err(circle(id));\n            }", "            if !chain.insert(at) {\n                break;\n            }", "--lib head"),
    "what msb uses is not replaced": ("src/import/place.rs", "                placing.claims.insert(path.clone(), claim(path)?);\n            }\n        }\n        if group", "            }\n        }\n        if group", "groups"),
    "groups are checked before images are placed": ("src/import/mod.rs", "        let placing = self.prepare_places(stage, &mut incoming, group.as_ref())?;\n        let placed_cache = cache.as_ref().map(|cache| cache.place(&self.store.cache())).transpose()?;\n", "        let placed_cache = cache.as_ref().map(|cache| cache.place(&self.store.cache())).transpose()?;\n        let placing = self.prepare_places(stage, &mut incoming, group.as_ref())?;\n", "groups"),
    "a lease is waited for": ("src/import/place.rs", "        for snapshot in incoming.iter().filter(|s| member_of(s).is_some()) {\n", "        for snapshot in incoming.iter().filter(|_| false) {\n", "groups"),
    "fsync of what was found": ("src/import/mod.rs", "        sync_names(placed, &self.store.root)?;\n", "        let _ = placed;\n", "durability"),
    # verifications: archives of msb
    "transport hashes of an archive": ("src/msb_archive/inventory.rs", "&& !observed.copies.iter().any(|copy| fits(&copy) && copy.transport == hash)", "&& false", "msb_archive::damage"),
    "sizes of an archive's members": ("src/msb_archive/inventory.rs", "if entry.apparent_size != observed.size {", "if false {", "msb_archive::damage"),
    "sparse ranges of an archive's members": ("src/msb_archive/inventory.rs", "if !observed.copies.iter().any(|copy| fits(&copy)) {", "if false {", "msb_archive::damage"),
    "SHA-256 of an archive's members": ("src/msb_archive/inventory.rs", "&& observed.sha256.is_none_or(|actual| actual.to_string() != *digest)", "&& false", "msb_archive::damage"),
    "members that are not listed": ("src/msb_archive/inventory.rs", "for path in observed.keys().filter(|path| !listed.contains_key(path.as_str())) {", "for path in observed.keys().filter(|_| false) {", "msb_archive::damage"),
    "an inventory is canonical": ("src/msb_archive/inventory.rs", "Ok(again) if again == bytes => Ok(value),", "Ok(_) => Ok(value),", "msb_archive::damage"),
    "an archive's problems count": ("src/msb_archive/mod.rs", "    staged::first(&read.name, read.problems())?;\n", "    let _ = staged::first;\n", "msb_archive::damage"),
    "padding in an archive": ("src/msb_archive/entries.rs", "        if padding.iter().any(|b| *b != 0) {", "        if false {", "msb_archive::damage"),
    "data after an archive's end": ("src/msb_archive/entries.rs", "            if piece.bytes().iter().any(|b| *b != 0) {", "            if false {", "msb_archive::damage"),
    "zeros after an archive's end": ("src/msb_archive/entries.rs", "            if zeros > MAX_END {", "            if false {", "msb_archive::damage"),
    "a descriptor is the listed one": ("src/msb_archive/staged.rs", "Some(listed) if *listed != descriptor.digest => {", "Some(listed) if *listed != descriptor.digest && false => {", "msb_archive::damage"),
    "members belong to a snapshot": ("src/msb_archive/staged.rs", "        if !is_bound {", "        if false {", "msb_archive::damage"),
    "a member that is there twice": ("src/msb_archive/unpack.rs", "if !again && !self.places.insert(member.place.clone()) {", "if !again && !self.places.insert(member.place.clone()) && false {", "msb_archive::damage"),
    "copies of a layer hold the same": ("src/msb_archive/unpack.rs", "if all.any(|other| Some(other.root) != root) {", "if false {", "msb_archive::complete"),
    "holes that are hashed count": ("src/msb_archive/unpack.rs", "if is_hashed(member.kind) { file.size } else { file.stored }", "file.stored", "msb_archive::damage"),
    "the size of what is borrowed": ("src/msb_archive/complete.rs", "    if is_listed && size != expected {", "    if is_listed && false {", "msb_archive::complete"),
    "closures of archives": ("src/msb_archive/staged.rs", "if let Some(damage) = snapshot.damages(jobs, progress.as_ref())?.first() {", "if let (Some(damage), true) = (snapshot.damages(jobs, progress.as_ref())?.first(), false) {", "msb_archive::complete"),
    # fsyncs: export
    "fsync of a blob or archive": ("src/layout/output.rs", "        self.file.sync_all()\n", "        Ok(())\n", "durability"),
    "fsync of a layout's documents": (
        "src/layout/dir_writer.rs", "file.sync_all().context(\"fsync\", &path)", "Ok(())", "durability",
    ),
    "fsync of a layout's folders": (
        "src/layout/dir_writer.rs", "sync_folder(&self.partial.path().join(folder))?;", "let _ = (folder, sync_folder);", "durability",
    ),
    "fsync after a bundle's name appears": (
        "src/layout/publish.rs", "let synced = sync_folder(&self.parent);", "let synced: Result<()> = Ok(());", "durability",
    ),
    "a bundle's name is taken back": (
        "src/layout/publish.rs",
        "self.armed = synced.is_err() && self.take_back().is_ok();",
        "self.armed = false;",
        "durability",
    ),
    "fsync after a bundle's exchange": (
        "src/layout/publish.rs",
        "sync_folder(&self.parent).map_err(|error| match exchange",
        "Ok::<(), Error>(()).map_err(|error| match exchange",
        "durability",
    ),
    "a bundle's exchange is taken back": (
        "src/layout/publish.rs",
        "sync_folder(&self.parent).map_err(|error| match exchange() {",
        "sync_folder(&self.parent).map_err(|error| match Ok::<(), Error>(()) {",
        "durability",
    ),
    "fsync of an export's new folders": ("src/layout/publish.rs", "        sync_folder(above)?;\n", "        let _ = above;\n", "durability"),
    # leftovers
    "lock of a temporary": (
        "src/temporary.rs",
        "Ok(()) => Ok(match (file.metadata()",
        "Ok(()) if flock(file, FlockOperation::Unlock).is_ok() => Ok(true),\n        Ok(()) => Ok(match (file.metadata()",
        "--lib temporary",
    ),
    "a lock that fails": ("src/temporary.rs", "Err(error) => Err(error.into()),", "Err(_) => Ok(true),", "failing_disk::no_run"),
    "leftovers that cannot be looked at": (
        "src/temporary.rs",
        "FlockOperation::NonBlockingLockShared).context(\"lock\", &path)?.is_some()",
        "FlockOperation::NonBlockingLockShared).is_ok_and(|file| file.is_some())",
        "failing_disk::no_leftover",
    ),
    "leftovers are removed": (
        "src/temporary.rs", ".iter().for_each(|path| remove_if_dead(path));", ";\n    let _ = remove_if_dead;", "--lib temporary",
    ),
    # verifications: documents and archives
    "a key twice": ("src/model/json.rs", "if keys.contains(&key) {", "if false {", "--lib json"),
    "a tar header's sum": (
        "src/layer/walk.rs", "if number(&block[148..156]) != Some(sum) {", "if false && Some(sum).is_none() {", "hardening",
    ),
    "an entry twice": ("src/layer/walk.rs", "if !self.seen.insert(path.clone()) {", "if !self.seen.insert(path.clone()) && false {", "hardening"),
    "a sparse map beyond its file": (
        "src/layer/walk.rs", "offset.checked_add(length).filter(|end| *end <= pending.real_size)", "offset.checked_add(length)", "hardening",
    ),
    "data after the end": ("src/layer/walk.rs", "                    if rest.iter().any(|b| *b != 0) {", "                    if false {", "hardening"),
    # verifications: limits
    "limit of files": ("src/import/mod.rs", "if files > self.options.max_files {", "if false {", "hardening conflicts cli"),
    "limit of data": ("src/import/mod.rs", "        if data > limit {", "        if false {", "hardening conflicts cli"),
    "data as the table declares it": (
        "src/layer/decode.rs", "        self.budget.spend(bytes.len() as u64, &self.path)?;\n", "", "hardening",
    ),
    "no links below a folder": (
        "src/beneath.rs",
        "ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS",
        "ResolveFlags::BENEATH",
        "--lib beneath",
    ),
    "limit of documents": (
        "src/bundle.rs", "limit(\"size of all manifests and configs\", self.bytes, MAX_DOCUMENTS)", "Ok(())", "deep hardening",
    ),
    "limit of files that are read whole": ("src/bundle.rs", "            if row.size > limit {", "            if false {", "hardening"),
    "limit of zstd frames": ("src/layer/decode.rs", "        if self.frames > limit {", "        if false {", "hardening"),
    "limit of names in a layer": ("src/layer/walk.rs", "        if self.names > MAX_NAMES {", "        if false {", "hardening"),
    "limit of folders": ("src/model/config.rs", "        if depth > MAX_DEPTH {", "        if false {", "hardening"),
    # verifications: the image cache
    "cache files of the snapshot's image": (
        "src/import/cache.rs",
        "check_belongs(image, files.iter().map(|file| &file.path), read)?",
        "check_belongs(image, files.iter().map(|file| &file.path), read).unwrap_or_default()",
        "hardening",
    ),
    "layers that only the VMDK names": ("src/import/cache.rs", "if unproven.contains(path) => {", "if false => {", "hardening"),
    "layers that the VMDK may name": (
        "src/store/image_cache.rs", "path.as_str() != fsmeta && !known.contains(path)", "false", "hardening",
    ),
    "layers that the VMDK must name": (
        "src/store/image_cache.rs", "find(|layer| !named.contains(layer))?", "find(|_| false)?", "hardening",
    ),
    "the config's image is the descriptor's": ("src/bundle.rs", "            && descriptor.image == record.image\n", "", "hardening"),
    "force replaces snapshots only": (
        "src/import/existing.rs", "if !marks.into_iter().collect::<Result<Vec<_>>>()?.contains(&true) {", "if false {", "conflicts",
    ),
    "force and the children of what it replaces": ("src/import/existing.rs", "if replaced.is_empty() || self.options.orphan_children {", "if true {", "conflicts"),
    "a file more stays": ("src/import/mod.rs", "if let Some(reason) = keep_below(&target.path, directory, brought.config)? {", "if let Some(reason) = None::<String> {", "conflicts"),
    "fsync of a snapshot that another tool placed": (
        "src/restore.rs", ".file.sync_all().context(\"fsync\", self.directory.join(at))?;", ";", "durability",
    ),
    "fsync of folders that another tool placed": (
        "src/restore.rs", "above.iter().rev().try_for_each(|folder| sync_folder(folder))", "Ok(())", "durability",
    ),
    "fsync of a cache file that another tool placed": (
        "src/import/cache.rs", "                sync_if_ours(&self.cache, Path::new(path.as_str()))?;\n", "", "durability",
    ),
    "fsync of metadata that another tool placed": (
        "src/import/cache.rs", "                sync_if_ours(&self.cache, Path::new(to.as_str()))?;\n", "", "durability",
    ),
    "a link is no copy of a parent": (
        "src/remove.rs",
        "= |snapshot: &Snapshot| snapshot.directory.canonicalize().context(\"resolve\", &snapshot.directory);",
        "= |snapshot: &Snapshot| Ok::<_, Error>(snapshot.directory.clone());",
        "remove",
    ),
    "half a copy of a parent is none": ("src/remove.rs", " && scan(s).is_ok()", "", "remove"),
    "a repair keeps what it does not bring": (
        "src/repair.rs", "(false, None) if kind.is_file() => {", "(false, None) if false => {", "check::",
    ),
    "a repair keeps labels": ("src/repair.rs", "if is_there(&brought)? {", "if false {", "check::"),
    "a repair keeps a folder in a file's place": (
        "src/repair.rs", "if fs::read_dir(&from).context(\"read\", &from)?.next().is_some() {", "if false {", "check::",
    ),
    "data bytes of a cache file": ("src/restore.rs", "if found.data_bytes != file.data_bytes {", "if false {", "deep"),
    "records of one cache file that differ": (
        "src/import/cache.rs",
        "if *wanted.entry((&record.path, root)).or_insert(record) != *record {",
        "wanted.entry((&record.path, root)).or_insert(record);\n        if false {",
        "deep",
    ),
    "each record of a cache layer": ("src/deep/mod.rs", "Some(known) if known == file => return Ok(()),", "Some(_) => return Ok(()),\n            #[allow(unreachable_patterns)]", "deep"),
    "the owner of a parent beside": (
        "src/store/lookup.rs",
        "Ok(owner) if owner == ours => found.push(other),",
        "Ok(_) if ours != u32::MAX => found.push(other),",
        "round_trip",
    ),
    "a replaced snapshot that cannot be read": (
        "src/import/existing.rs", "Snapshot::of(target)?.filter(", "Snapshot::of(target).ok().flatten().filter(", "failing_disk::force",
    ),
    "a record beside what is kept": (
        "src/import/existing.rs",
        "ImportRecord::of(directory)?.is_some_and(",
        "ImportRecord::of(directory).ok().flatten().is_some_and(",
        "failing_disk::force",
    ),
    "a child's record that cannot be read": (
        "src/import/mod.rs",
        "let Some(record) = ImportRecord::of(&child.target.path)? else { return Ok(()) };",
        "let Some(record) = ImportRecord::of(&child.target.path).ok().flatten() else { return Ok(()) };",
        "failing_disk::no_import",
    ),
    "folders that were there": (
        "src/store/place.rs",
        "matches!(fs::metadata(path), Err(e) if e.kind() == ErrorKind::NotFound)",
        "fs::metadata(path).is_err()",
        "failing_disk::a_failed",
    ),
    "parents beside that cannot be read": (
        "src/store/lookup.rs", "            if let Some(error) = hidden {\n                return Err(may_be_hidden(format!(\"the parent {parent} of {}\", child.name), error));\n            }\n", "            let _ = &hidden;\n", "failing_disk::no_parent",
    ),
    "a repair keeps the metadata of a newer image": (
        "src/repair.rs", "if Metadata::at(&target)?.is_some_and(|there| there.is_whole()) {", "if false {", "image_tags",
    ),
    "a tag that has moved on": (
        "src/check/images.rs",
        "if metadata.manifest_digest != image.manifest_digest && metadata.is_whole() => {}",
        "if false && metadata.is_whole() => {}",
        "image_tags",
    ),
    "metadata that was brought": (
        "src/check/images.rs",
        "c.manifest_digest == image.manifest_digest && c.problems.is_empty()",
        "c.manifest_digest == image.manifest_digest",
        "image_tags",
    ),
    # verifications: what a tag means
    "a tag without a meaning is not set unasked": (
        "src/image_tags.rs", "(Standing::Nothing, TagTrust::New | TagTrust::Replace) =>", "(Standing::Nothing, _) =>", "image_tags",
    ),
    "another meaning is not replaced by trust alone": (
        "src/image_tags.rs", "(Standing::Other, TagTrust::Replace) =>", "(Standing::Other, TagTrust::New | TagTrust::Replace) =>", "image_tags",
    ),
    "another meaning is not replaced by force alone": (
        "src/image_tags.rs", "(false, _) => Self::None,", "(false, false) => Self::None,\n            (false, true) => Self::Replace,", "image_tags",
    ),
    "damaged metadata is no meaning": (
        "src/image_tags.rs", "Some(metadata) if metadata.is_whole() && !", "Some(metadata) if !", "image_tags",
    ),
    "the pinned key is replaced by force only": (
        "src/image_tags.rs", "Standing::Damaged | Standing::Other if force =>", "Standing::Damaged | Standing::Other if force || true =>", "image_tags",
    ),
    "a reference is pinned to this manifest": (
        "src/store/image_reference.rs", "is_some_and(|digest| *digest == manifest.to_string())", "is_some_and(|_| !manifest.to_string().is_empty())", "image_tags",
    ),
    "a repair sets no tag": ("src/repair.rs", "TagTrust::None, true)", "TagTrust::New, true)", "image_tags"),
    "a repair takes the image's metadata": (
        "src/repair.rs", "if metadata.manifest_digest != image.manifest_digest || !metadata.is_whole() {", "if false {", "hardening::paths",
    ),
    "a VMDK names what came with it": (
        "src/store/image_cache.rs", "file.as_str() != fsmeta && !came.contains(file)", "false", "hardening::paths",
    ),
    "two metadata files of one image": (
        "src/store/image_cache.rs", "Some((other, known)) if *known != metadata => {", "Some((other, known)) if false && *known != metadata => {", "hardening::paths",
    ),
    "what msb has read out of the config": (
        "src/store/image_metadata.rs", "members.iter().find(|member| differs(member))", "members.iter().find(|member| false && differs(member))", "--lib image_metadata",
    ),
    "what msb has read out of the manifest": (
        "src/store/image_metadata.rs", "self.layers.iter().zip(&described).any(unlike)", "self.layers.iter().zip(&described).any(|pair| false && unlike(pair))", "--lib image_metadata",
    ),
    "the image's manifest by its digest": (
        "src/store/image_metadata.rs", "        if !names_config {\n            hashes(", "        if false {\n            hashes(", "--lib image_metadata",
    ),
    "the image's config by its digest": (
        "src/store/image_metadata.rs", "        hashes(\"raw_config_json\", &self.raw_config_json, self.config_digest);\n", "", "--lib image_metadata",
    ),
    "a key of metadata that stands twice": (
        "src/store/image_metadata.rs", "        reject_duplicate_keys(bytes)?;\n", "        let _ = reject_duplicate_keys;\n", "--lib image_metadata",
    ),
    "metadata of another meaning that came in between": (
        "src/import/cache.rs", "if *is_metadata && Metadata::at(target)? == Metadata::at(staged)? => {}", "if *is_metadata => {}", "--lib import",
    ),
    "metadata of a removed image goes": (
        "src/remove/prune.rs", "needed.retain(|path| !path.as_str().starts_with(\"manifests/\"));", "", "image_tags",
    ),
    "segments of a layer on export": ("src/layer/tar.rs", "if segments <= MAX_SEGMENTS {", "if true {", "--lib layer"),
    "an upload of other bytes": (
        "src/registry/writer.rs", "self.session.iter_mut().for_each(Session::forget);", "", "registry::cuts",
    ),
    "a document that drips": ("src/registry/response.rs", "if self.began.elapsed() > self.longest {", "if false {", "--lib response"),
    "a hidden child and force": ("src/import/existing.rs", "        no_child_is_hidden(&unreadable)?;\n", "", "conflicts"),
    "a repair keeps a file in a folder's place": (
        "src/repair.rs", "(false, Some(true)) if kind.is_file() => {", "(false, Some(true)) if false => {", "check::",
    ),
    "a blob of no size is none": (
        "src/registry/repository.rs", "Ok(response.status() == StatusCode::OK && size == Some(descriptor.size))", "Ok(response.status() == StatusCode::OK && size.is_none_or(|size| size == descriptor.size))", "registry::faults",
    ),
    "all of a blob has no rest": ("src/registry/parts.rs", "_ if stream.is_whole() =>", "_ if false =>", "registry"),
    "segments of all maps": ("src/layer/walk.rs", "                self.segments += pending.segments.len();\n", "", "hardening::layer_tar"),
    "a cache file that is there": (
        "src/import/cache.rs",
        "Ok(Some(there)) if there.is(file.record) && !there.elsewhere => {",
        "Ok(Some(there)) if !there.elsewhere => {",
        "conflicts hardening",
    ),
    # verifications: what is in a store
    "an export is as imported": ("src/export.rs", "        as_imported(snapshot, imported, &files)?;\n", "        let _ = (imported, as_imported);\n", "conflicts"),
    "repair without a record": (
        "src/repair.rs", "None => Ok(self.unlike(bad, same)?.map_or(Ok(same), Err)),", "None => Ok(Ok(same)),", "check",
    ),
    "repair with a record": (
        "src/repair.rs", "Some(record) if record.files.iter().filter(but_labels).eq(brought()) => Ok(Ok(same)),", "Some(_) if true => Ok(Ok(same)),", "check",
    ),
    "an unreadable child keeps its parent": ("src/remove.rs", "    if !options.orphan_children {\n", "    if false {\n", "remove"),
    "what a VMDK names is needed": ("src/remove/prune.rs", "        needed.extend(files);\n", "        let _ = files;\n", "remove"),
    "force spares devices": ("src/layout/publish.rs", "if !kind.is_file() && is_special(path)? => {", "if false => {", "--lib layout"),
    "nothing is placed after a signal": (
        "src/temporary.rs", "        let _open = self.gate.read().unwrap_or_else(PoisonError::into_inner);\n", "", "--lib temporary",
    ),
    # verifications: verify --deep
    "what a delta goes over was kept": (
        "src/layer/streamed.rs", "            Some(scratch) if below.later.needs_bytes(leaf) => {", "            Some(scratch) => {", "--lib streamed",
    ),
    "verify --deep: the descriptor": ("src/deep/mod.rs", "        self.compare_descriptor(snapshot)\n", "        Ok(())\n", "deep"),
    "verify --deep: the bytes of a file": (
        "src/deep/mod.rs", "map_or(u64::MAX, |declared| declared.data_bytes);", "map_or(u64::MAX, |_| u64::MAX);", "deep hardening",
    ),
    "verify --deep: the room for scratch": ("src/deep/room.rs", "            if free < bytes {", "            if false {", "--lib deep"),
    "one layer of two sizes": ("src/check_bundle.rs", "        if known.size != blob.size {", "        if false {", "deep layout_checks corruption"),
    # verifications: registries
    "credentials stay with their host": (
        "src/registry/auth.rs", "if url.origin() != self.base.origin() {\n            return None;", "if false {\n            return None;", "registry",
    ),
    "no user information of a redirect": ("src/registry/client.rs", "        let _ = (url.set_username(\"\"), url.set_password(None));\n", "", "registry::auth"),
    "a certificate that is trusted itself has dates": ("src/registry/trust.rs", "            check_dates(certificate, now)?;\n", "", "registry::tls"),
    "a certificate that is trusted itself is for a host": (
        "src/registry/trust.rs", ".and_then(|one| verify_server_name(&one, name)) {", ".map(|_| ()) {", "registry::tls",
    ),
    "only the very certificate": ("src/registry/trust.rs", "trusted.as_ref() == certificate.as_ref();", "!trusted.is_empty() || trusted.as_ref() == certificate.as_ref();", "registry::tls"),
    "a server of trusted certificate has its key, TLS 1.2": ("src/registry/trust.rs", "        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)", "        let _ = (message, certificate, signed);\n        Ok(HandshakeSignatureValid::assertion())", "registry::tls"),
    "a server of trusted certificate has its key, TLS 1.3": ("src/registry/trust.rs", "        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)", "        let _ = (message, certificate, signed);\n        Ok(HandshakeSignatureValid::assertion())", "registry::tls"),
    "a server of any certificate has its key, TLS 1.2": ("src/registry/trust.rs", "        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)", "        let _ = (message, certificate, signed);\n        Ok(HandshakeSignatureValid::assertion())", "registry::tls"),
    "a server of any certificate has its key, TLS 1.3": ("src/registry/trust.rs", "        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)", "        let _ = (message, certificate, signed);\n        Ok(HandshakeSignatureValid::assertion())", "registry::tls"),
    "credentials are private from the first byte": ("src/registry/credential_files.rs", "temporary::make_file(folder, prefix, PARTIAL, 0o600)?;", "temporary::make_file(folder, prefix, PARTIAL, 0o666)?;", "registry::login"),
    "the folder of credentials is private": ("src/registry/credential_files.rs", ".recursive(true).mode(0o700).create(folder)", ".recursive(true).create(folder)", "registry::login"),
    "a key is for its namespace alone": ("src/registry/credential_keys.rs", "same_host && rest == self.namespace", "same_host && (rest == self.namespace || self.namespace.is_some())", "registry::credentials"),
    "a password is for one registry": ("src/cli/registry.rs", "(Some(_), Some((known, given))) if known == host =>", "(Some(_), Some((known, given))) if known == host || true =>", "registry::credentials"),
    "a password is for one end of a copy": ("src/cli/ends.rs", ".find(|(of, _)| of == host);", ".find(|(of, _)| of == host || true);", "registry::credentials"),
    "a password is not shown": ("src/cli/password.rs", "    silent.local_modes.remove(LocalModes::ECHO);\n", "", "registry::login"),
    "the terminal shows again what is typed": ("src/cli/mod.rs", "    password::show_again();\n", "", "registry::login"),
    "the registry alone is shown who we are": ("src/registry/way.rs", "if tls.has_keys() { build(tls.others(host)?)? } else { ours.clone() };", "ours.clone();", "registry::tls"),
    "a certificate of a file is one": ("src/registry/pem.rs", "        RootCertStore::empty().add(one.clone()).map_err(|_| damaged())?;\n", "", "registry::tls"),
    "a file of certificates has some": ("src/registry/pem.rs", "    match found.is_empty() {", "    match false {", "registry::tls"),
    "a manifest's digest": ("src/registry/repository.rs", "&& Digest::of(&bytes) != *digest", "&& false && Digest::of(&bytes) != *digest", "registry"),
    "a range begins as asked": (
        "src/registry/source.rs", "if first_of_range(&range) == Some(self.offset) {", "if true {", "registry::faults",
    ),
    "a range's whole size": (
        "src/registry/source.rs", ".filter(|size| *size != self.descriptor.size)", ".filter(|_| false)", "registry",
    ),
    "a part of a blob is this user's": ("src/registry/partial.rs", " && metadata.mode() & 0o077 == 0", "", "--lib partial"),
    "a part is no longer than its blob": ("src/registry/partial.rs", "        if length > descriptor.size {\n", "        if false {\n", "--lib partial"),
    "parts are bounded": ("src/registry/partial.rs", "            if total <= self.most {\n", "            if true {\n", "--lib partial"),
    "a part that is wrong goes": ("src/verify.rs", "            tell();\n", "            let _ = tell;\n", "registry::cuts"),
    "a verification reads the registry": ("src/check_bundle.rs", "&[options.source.afresh()]", "&[options.source.clone()]", "registry::cuts"),
    "what is in place is not kept": ("src/import/mod.rs", "        source.release();\n", "", "registry::cuts"),
    "what cannot be seen is not overwritten": ("src/registry/target.rs", "                if self.unseen == Unseen::Overwrite =>\n", "                if true =>\n", "registry::faults"),
    "a blob that drips": ("src/registry/response.rs", "        } else if *time >= SPAN {", "        } else if false {", "--lib response"),
    "a body that stops": ("src/registry/response.rs", "            if since.elapsed() >= self.waiting.timeout {", "            if false {", "registry::faults"),
    "what a registry names is what it was sent": ("src/registry/upload.rs", "Some(named) if named != descriptor.digest => Err(", "Some(named) if false && named != descriptor.digest => Err(", "registry"),
    # locks
    "removals have the store alone": (
        "src/remove.rs", "lock::share(&folders, progress) } else { lock::take(&folders, progress) }", "lock::share(&folders, progress) } else { lock::share(&folders, progress) }", "remove",
    ),
}


def place(name, tree=TREE):
    """The file that has the mutant's text, exactly once."""
    files, text = MUTANTS[name][0], MUTANTS[name][1]
    found = [f for f in files.split("|") if (tree / f).exists() and text in (tree / f).read_text()]
    if len(found) != 1 or (tree / found[0]).read_text().count(text) != 1:
        sys.exit(f"mutant {name!r}: its text is not once in {files}; bring the list up to date:\n{text}")
    return tree / found[0]


def cargo(*arguments):
    environment = dict(os.environ, CARGO_TARGET_DIR=str(BUILD), CI="")
    # A mutant that loops must not hold the others up.
    command = ["timeout", "900", "cargo", "test", "--locked", "--quiet", *arguments]
    done = subprocess.run(command, cwd=TREE, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def failed_tests(output):
    return re.findall(r"^(?:test )?(\S+::\S+)(?: \.\.\. FAILED| --- FAILED)$", output, re.M) or re.findall(
        r"^---- (\S+) stdout ----$", output, re.M
    )


class DoesNotCompile(Exception):
    """The mutant is no program."""


def run(filters):
    """The tests that fail."""
    if filters.startswith("--lib"):
        code, output = cargo("--lib", "--", *filters.split()[1:])
    else:
        code, output = cargo("--test", "it", "--", *filters.split())
    if "could not compile" in output:
        raise DoesNotCompile(output[-3000:])
    found = failed_tests(output)
    RESULTS.with_name("last-output.txt").write_text(output)
    return found or (["(ended with " + str(code) + ")"] if code else [])


def main():
    names = sys.argv[1:] or list(MUTANTS)
    if names == ["--list"]:
        print("\n".join(MUTANTS))
        return
    if names == ["--check"]:
        for name in MUTANTS:
            place(name, ROOT)
        return
    unknown = [n for n in names if n not in MUTANTS]
    if unknown:
        sys.exit(f"no such mutant: {unknown}")
    shutil.rmtree(TREE, ignore_errors=True)
    TREE.mkdir(parents=True)
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    for name in filter(None, files.decode().split("\0")):
        if (ROOT / name).is_file():
            (TREE / name).parent.mkdir(parents=True, exist_ok=True)
            # With the time of now: cargo goes by it, and would take the last mutant's build for this tree's.
            shutil.copyfile(ROOT / name, TREE / name)
            shutil.copymode(ROOT / name, TREE / name)
    for name in names:
        place(name)
    started = time.time()
    for filters in sorted({MUTANTS[n][3] for n in names}):
        broken = run(filters)
        if broken:
            sys.exit(f"without any mutant, {broken} fail already")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    alive = []
    for name in names:
        path = place(name)
        good = path.read_text()
        path.write_text(good.replace(MUTANTS[name][1], MUTANTS[name][2]))
        try:
            killers = run(MUTANTS[name][3])
            if not killers:
                killers = run("") or run("--lib")
        except DoesNotCompile as error:
            print(f"{name} does not compile:\n{error}", flush=True)
            killers = []
        path.write_text(good)
        if not killers:
            alive.append(name)
        shown = "; ".join(f"`{k}`" for k in killers[:3]) + (f" and {len(killers) - 3} more" if len(killers) > 3 else "")
        row = f"| {name} | {path.relative_to(TREE)} | {shown or 'NONE'} |"
        results[name] = {"mutant": list(MUTANTS[name]), "row": row}
        print(row, flush=True)
        RESULTS.write_text(json.dumps(results, indent=1))
    print(f"{time.time() - started:.0f} s")
    # Of a mutant that is another one now, nothing is known.
    known = {n: results[n]["row"] for n in MUTANTS if n in results and results[n]["mutant"] == list(MUTANTS[n])}
    rows = [known.get(name, f"| {name} | {MUTANTS[name][0]} | not run yet |") for name in MUTANTS]
    page = ROOT / "target/reliability/full/row-16.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(
        "## Row 16. Each verification and fsync removed in turn\n\n| removed | in | tests that fail |\n|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\n- {len(known)} of {len(rows)} mutants were run, {sum('| NONE |' in row for row in rows)} survive.\n"
        + f"- Linux {platform.release()} {platform.machine()}. Again: `make mutation`\n"
    )
    if alive:
        sys.exit(f"no test fails without: {', '.join(alive)}")


if __name__ == "__main__":
    main()
