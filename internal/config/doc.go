// Package config reads agentkernel.toml, a project's file: which image, how many vCPUs, how much memory, and so on.
//
//	[sandbox]
//	name = "my-project"
//	rootfs = "base"        # name of an image, reference (python:3.12, ghcr.io/owner/name), or path of an image file in the project
//	# dockerfile = "Dockerfile", in place of rootfs: what the image is built from
//
//	[agent]
//	preferred = "claude"
//
//	[resources]
//	vcpus = 2
//	memory_mb = 512
//
//	[network]
//	vsock_cid = 3
//
// All keys are optional; there are no others. The file comes with the project, so it is not trusted: it may ask for
// resources and for an image, and can neither name a file outside the project's directory nor make us read one. That it names a
// Dockerfile has nothing built: that takes the user's word. Whatever
// is wrong in it is reported at once, each with line and column and what would be right.
package config
