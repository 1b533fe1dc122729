//go:build !linux

package archive

import "strconv"

func fdPath(fd int) string { return "/dev/fd/" + strconv.Itoa(fd) }

// attributes: extended attributes mean something else here than in a guest.
func (p *packer) attributes(int) ([]Xattr, error) { return nil, nil }

// extents: holes are not looked for here.
func extents(int, int64) ([]extent, error) { return nil, nil }

func ofKernel(int) bool { return false }
