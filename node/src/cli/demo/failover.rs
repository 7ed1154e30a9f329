//! `skep demo failover`: the proof that the death of a job's owner loses nothing and bills nothing twice.

use super::acts::Stage;
use super::story::Story;
use crate::cli::failure::Failure;

pub(super) async fn tell(story: &mut Story, stage: &mut Stage) -> Result<(), Failure> {
    let output = story.output();
    story.step("form a cluster", stage.form()).await?;
    story.step("create a tenant", stage.create_tenant("acme")).await?;
    story.step("submit a job", stage.submit()).await?;
    story.step("kill -9 the owner of the job", stage.kill_owner(output)).await?;
    story.step("write again", stage.write_again()).await?;
    story.step("the job completes", stage.complete(output)).await?;
    story.step("usage", stage.usage_is_exact()).await
}
