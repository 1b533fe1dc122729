package app

import (
	"context"
	"os"
	"sync"

	"github.com/agentkernel/agentkernel/internal/initramfs"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// initrds remembers where the initramfs of each architecture is: to make and hash it takes longer than all else that a start
// prepares. A file that was deleted meanwhile, as any cache may be, is made again.
type initrds struct {
	dir  string
	mu   sync.Mutex
	made map[sandbox.Arch]string
}

func (i *initrds) path(ctx context.Context, arch sandbox.Arch) (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if path := i.made[arch]; path != "" {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	path, err := initramfs.Path(ctx, i.dir, arch)
	if err != nil {
		return "", err
	}
	if i.made == nil {
		i.made = map[sandbox.Arch]string{}
	}
	i.made[arch] = path
	return path, nil
}
