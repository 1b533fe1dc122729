// Package rootfs embeds the recipes of the images that agentkernel builds itself: one directory an image, with a file
// called "recipe" and the files that it names. internal/image documents the format and builds them.
package rootfs

import "embed"

// Recipes has a directory for each image.
//
//go:embed base go node python rust
var Recipes embed.FS
