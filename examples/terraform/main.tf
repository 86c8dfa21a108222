# A workspace made of built-ins alone, so that it runs without an account anywhere and downloads no provider. A real
# module has a machine where `desk` stands, and a disk where `disk` stands.

variable "size" {
  type        = string
  description = "Of the preset: examples/terraform.yaml hands it on."
}

# What Prebuilds tells a module. Declare those that are needed; nothing else is passed.
variable "prebuilds_workspace_id" {
  type = string
}

variable "prebuilds_owner" {
  type        = string
  description = "`prebuilds` while nobody has claimed it."
}

variable "prebuilds_stage" {
  type        = string
  description = "create, claim or start."
}

# Kept by a claim: nothing of it depends on the owner.
resource "terraform_data" "disk" {
  input = var.size
}

# Changed in place by a claim. `triggers_replace = var.prebuilds_owner` here would have the claim rebuild it: Prebuilds
# would say so, in the build's log, as an event and in prebuilds_resource_replacements_total.
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
