//! Models of the registry. Invariant: what serves, and what a canary gets, are versions that are there.

use protocol::command::What;
use protocol::models::{
    BUILT_IN, Command, MODELS_MAX, Model, ModelId, Registry, Target, VERSIONS_MAX, Version,
};
use protocol::{Name, Outcome, Refusal, Reply, Time};

#[cfg(test)]
mod tests;

pub(super) fn change(registry: &mut Registry, now: Time, command: Command) -> Outcome {
    let model = match command {
        Command::Create { name } => create(registry, now, name)?,
        Command::AddVersion { name, version } => add(find(registry, &name)?, now, *version)?,
        Command::SetTarget { name, target, if_revision } => {
            set_target(find(registry, &name)?, target, if_revision)?
        }
        Command::RemoveVersion { name, version } => remove(find(registry, &name)?, version)?,
    };
    model.revision += 1;
    Ok(Reply::Model(Box::new(model.clone())))
}

fn find<'r>(registry: &'r mut Registry, name: &Name) -> Result<&'r mut Model, Refusal> {
    registry.models.get_mut(name).ok_or(Refusal::NotFound)
}

fn create(registry: &mut Registry, now: Time, name: Name) -> Result<&mut Model, Refusal> {
    if name.as_str() == BUILT_IN || registry.models.contains_key(&name) {
        return Err(Refusal::Exists);
    }
    if registry.models.len() >= MODELS_MAX {
        let got = registry.models.len() as u64 + 1;
        return Err(Refusal::TooMany { what: What::Models, got, limit: MODELS_MAX as u64 });
    }
    registry.next_model += 1;
    let model = Model {
        id: ModelId(registry.next_model),
        created_at: now,
        versions: std::collections::BTreeMap::new(),
        next_version: 1,
        target: None,
        previous: None,
        revision: 0,
    };
    Ok(registry.models.entry(name).or_insert(model))
}

fn add(model: &mut Model, now: Time, version: Version) -> Result<&mut Model, Refusal> {
    if model.version_of(version.artefact.sha256).is_some() {
        return Err(Refusal::Exists);
    }
    if model.versions.len() >= VERSIONS_MAX {
        let got = model.versions.len() as u64 + 1;
        return Err(Refusal::TooMany { what: What::Versions, got, limit: VERSIONS_MAX as u64 });
    }
    model.versions.insert(model.next_version, Version { added_at: now, ..version });
    model.next_version += 1;
    Ok(model)
}

fn set_target(
    model: &mut Model,
    target: Target,
    if_revision: Option<u64>,
) -> Result<&mut Model, Refusal> {
    if let Some(wanted) = if_revision.filter(|&wanted| wanted != model.revision) {
        return Err(Refusal::VersionMismatch { wanted, now: model.revision });
    }
    if target.versions().any(|version| !model.versions.contains_key(&version)) {
        return Err(Refusal::NotFound);
    }
    // The same again leaves what one would go back to.
    if model.target != Some(target) {
        model.previous = model.target.replace(target);
    }
    Ok(model)
}

fn remove(model: &mut Model, version: u32) -> Result<&mut Model, Refusal> {
    let names = |target: &Target| target.versions().any(|named| named == version);
    if model.target.as_ref().is_some_and(names) {
        return Err(Refusal::VersionServes { version });
    }
    model.versions.remove(&version).ok_or(Refusal::NotFound)?;
    model.previous = model.previous.take().filter(|previous| !names(previous));
    Ok(model)
}
