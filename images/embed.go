// Package images embeds what the guest's kernel is built from, so that one
// binary can build it anywhere.
package images

import "embed"

// Kernel holds, under "kernel/", the configuration fragments (*.config), the
// patches of each series (patches/<series>/*.patch), and the public keys of
// those who sign kernel releases (keys/<fingerprint>.asc).
//
//go:embed kernel/*.config kernel/patches kernel/keys
var Kernel embed.FS
