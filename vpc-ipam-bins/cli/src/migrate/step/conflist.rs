//! The runtime's configuration: ours in place of that of amazon-vpc-cni-k8s, and back.

use super::back_up::CONFLISTS;
use super::{Context, Options, Step, StepError};
use crate::migrate::conflist::{Conflist, Conflists, OURS};
use crate::migrate::durable;

/// The runtime sees one of the two at any time.
pub(super) const TO: Step = Step { name: "conflist", commands: commands_to, run: to };
/// No pod is added by the plugin that goes.
pub(super) const OUT: Step = Step { name: "conflist out", commands: commands_out, run: out };
/// Before amazon-vpc-cni-k8s is there, and writes its own.
pub(super) const BACK: Step = Step { name: "conflist back", commands: commands_back, run: back };

/// Permissions as amazon-vpc-cni-k8s gives its own.
const MODE: u32 = 0o644;

fn commands_to(options: &Options) -> Vec<String> {
    let folder = &options.paths.cni_conf;
    let ours = format!(
        "# {}/{OURS}: the configuration of amazon-vpc-cni-k8s with vpc-cni in place of aws-cni",
        folder.display()
    );
    // What cannot be read, the step itself says.
    let there = Conflists::read(&options.paths.at(folder)).ok();
    let files = there.iter().flat_map(|it| it.all_old()).filter_map(|it| it.path.file_name());
    let old =
        files.map(|file| format!("rm {}    # it is in the backup", folder.join(file).display()));
    core::iter::once(ours).chain(old).collect()
}

fn commands_out(options: &Options) -> Vec<String> {
    vec![format!("rm {}/{OURS}", options.paths.cni_conf.display())]
}

fn commands_back(options: &Options) -> Vec<String> {
    let folder = options.paths.cni_conf.display();
    let from = match &options.conflist {
        Some(path) => path.display().to_string(),
        None => format!("{}/to-TIME/{CONFLISTS}/10-aws.conflist", options.paths.folder.display()),
    };
    vec![format!("cp {from} {folder}/")]
}

fn to(context: &mut Context<'_>) -> Result<String, StepError> {
    let folder = context.cni_conf();
    // What a way back that was killed, and is turned round, had not finished.
    if let Ok(old) = of_before(context) {
        durable::remove(&folder.join(format!("{}.new", old.file())))?;
    }
    let there = Conflists::read(&folder)?;
    there.expect_first(OURS).map_err(refused)?;
    let old = there.all_old().map(|it| it.path.clone()).collect::<Vec<_>>();
    if let (None, Some(ours)) = (there.old(), there.all_ours().next()) {
        return Ok(format!("{} is there already", ours.path.display()));
    }
    // On the way back neither was there for a while.
    let saved = saved(context)?;
    let Some(first) = there.old().or(saved.as_ref()) else {
        if let Some(text) = durable::read(&context.journal.folder().join(OURS))? {
            durable::write(&folder.join(OURS), &text, MODE)?;
            return Ok(format!("{} is there again", folder.join(OURS).display()));
        }
        return Err(StepError::Refused(format!(
            "no configuration in {} calls aws-cni: this node is not one of amazon-vpc-cni-k8s",
            folder.display()
        )));
    };
    // Nor one that the runtime takes now.
    there.expect_first(&first.file()).map_err(refused)?;
    let socket = &context.options.paths.socket;
    let socket = Some(socket.as_path()).filter(|it| *it != vpc_ipam_protocol::SOCKET);
    let text = first.in_our_words(&context.options.vars, socket).map_err(refused)?;
    let name = first.name.clone();
    durable::write(&folder.join(OURS), text.as_bytes(), MODE)?;
    // One of ours that sorts behind would count once this one is removed.
    let others = there.all_ours().map(|it| it.path.clone()).filter(|it| !it.ends_with(OURS));
    for path in others.chain(old) {
        durable::remove(&path)?;
    }
    Ok(format!("{} has the network {name}", folder.join(OURS).display()))
}

fn out(context: &mut Context<'_>) -> Result<String, StepError> {
    let there = Conflists::read(&context.cni_conf())?;
    // What the way back needs is to be known before anything goes.
    if there.old().is_none() {
        of_before(context)?;
    }
    let kept = context.journal.folder().join(OURS);
    let mut files = Vec::new();
    for ours in there.all_ours() {
        // The first is the one that the runtime took.
        if let Some(text) = durable::read(&ours.path)?.filter(|_| files.is_empty()) {
            durable::write(&kept, &text, 0o600)?;
        }
        durable::remove(&ours.path)?;
        files.push(ours.file());
    }
    match files.as_slice() {
        [] => Ok("there was none of ours".to_owned()),
        files => Ok(format!("{} is {} now", files.join(", "), kept.display())),
    }
}

/// Puts ours back after a step failed before that of amazon-vpc-cni-k8s could be: a node without any is not ready, and its pods are evicted.
pub(in crate::migrate) fn put_ours_back(context: &mut Context<'_>) -> Result<(), StepError> {
    let (folder, kept) = (context.cni_conf(), context.journal.folder().join(OURS));
    let there = Conflists::read(&folder)?;
    let Some(text) = durable::read(&kept)?.filter(|_| there.old().is_none()) else { return Ok(()) };
    context.journal.undone(&[OUT.name, super::drain::STEP.name])?;
    Ok(durable::write(&folder.join(OURS), &text, MODE)?)
}

fn back(context: &mut Context<'_>) -> Result<String, StepError> {
    let folder = context.cni_conf();
    if let Some(old) = Conflists::read(&folder)?.old() {
        return Ok(format!("{} is there", old.path.display()));
    }
    let old = of_before(context)?;
    let text = durable::read(&old.path)?.unwrap_or_default();
    durable::write(&folder.join(old.file()), &text, MODE)?;
    Ok(format!("{} is there again", folder.join(old.file()).display()))
}

/// Returns the configuration of amazon-vpc-cni-k8s that comes back.
fn of_before(context: &Context<'_>) -> Result<Conflist, StepError> {
    if let Some(path) = &context.options.conflist {
        let named = Conflist::read(path)?;
        if named.is_old() {
            return Ok(named);
        }
        return Err(StepError::Refused(format!("{} does not call aws-cni", path.display())));
    }
    saved(context)?.ok_or_else(|| {
        StepError::Refused(
            "no backup has a configuration that calls aws-cni, since this node began with vpc-ipam: name one with --conflist FILE".to_owned(),
        )
    })
}

/// Returns the configuration of amazon-vpc-cni-k8s that the last way to vpc-ipam saved.
fn saved(context: &Context<'_>) -> Result<Option<Conflist>, StepError> {
    let folder = context.backup().map(|backup| backup.join(CONFLISTS));
    let saved = folder.map(|folder| Conflists::read(&folder)).transpose()?;
    Ok(saved.and_then(Conflists::into_old))
}

fn refused(error: crate::migrate::conflist::ConflistError) -> StepError {
    StepError::Refused(vpc_ipam_core::error_chain(&error))
}
