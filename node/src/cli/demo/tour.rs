//! `skep demo tour`: the whole story.

use super::acts::Stage;
use super::story::Story;
use crate::cli::failure::Failure;

pub(super) async fn tell(story: &mut Story, stage: &mut Stage) -> Result<(), Failure> {
    let output = story.output();
    story.step("form a cluster", stage.form()).await?;
    story.step("create a tenant", stage.create_tenant("acme")).await?;
    story.step("scan one text through two nodes", stage.scan_twice()).await?;
    story.step("scan a batch", stage.scan_batch()).await?;
    story.step("submit a job", stage.submit()).await?;
    story.step("kill -9 the owner of the job", stage.kill_owner(output)).await?;
    story.step("write again", stage.write_again()).await?;
    story.step("the job completes", stage.complete(output)).await?;
    story.step("usage", stage.usage_is_exact()).await?;
    story.step("restart the killed node", stage.restart_killed()).await?;
    story.step("stop all, start all", stage.restart_all()).await?;
    story.step("stop", stage.stop()).await
}
