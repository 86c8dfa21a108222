# A workspace made of built-ins alone, so that it runs without an account anywhere and downloads no provider. A real
# module has a machine where `desk` stands, and a disk where `disk` stands.

variable "size" {
  type        = string
  description = "The preset's size, which examples/terraform.yaml passes on."
}

# Variables that Prebuilds can set. Only those that a module declares are passed.
variable "prebuilds_workspace_id" {
  type = string
}

variable "prebuilds_owner" {
  type        = string
  description = "`prebuilds` while nobody has claimed it."
}

variable "prebuilds_stage" {
  type        = string
  description = "create, claim, start, stop or paused; the last two only with prebuilds_start_count."
}

# A claim keeps this resource, since nothing in it depends on the owner.
resource "terraform_data" "disk" {
  input = var.size
}

# A claim changes this resource in place. With `triggers_replace = var.prebuilds_owner` the claim would replace it, which
# Prebuilds reports in the build's log, as an event and in prebuilds_resource_replacements_total.
resource "terraform_data" "desk" {
  input = {
    owner = var.prebuilds_owner
    disk  = terraform_data.disk.id
  }
}

output "address" {
  value = "desk-${substr(var.prebuilds_workspace_id, 0, 8)}"
}

output "owner" {
  value = terraform_data.desk.output.owner
}

output "last_stage" {
  value = var.prebuilds_stage
}
