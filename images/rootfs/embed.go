// Package rootfs embeds the recipes of the images that agentkernel builds itself: one directory an image, with a file
// called "recipe" and the files that it names. internal/image documents the format and builds them.
package rootfs

import "embed"

// Recipes has the directory base/.
//
//go:embed base
var Recipes embed.FS
