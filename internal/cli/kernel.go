package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/agentkernel/agentkernel/internal/kernel"
	"github.com/agentkernel/agentkernel/internal/paths"
	"github.com/agentkernel/agentkernel/internal/terminal"
)

func kernelCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "kernel", Short: "Build and list guest kernels"}
	cmd.AddCommand(kernelBuildCommand(e), kernelListCommand(e))
	return cmd
}

func kernelStore() (*kernel.Store, error) {
	dirs, err := paths.Find(os.Getenv)
	if err != nil {
		return nil, err
	}
	return kernel.OpenStore(dirs.Kernels())
}

func kernelBuildCommand(e *env) *cobra.Command {
	var req kernel.Request
	var arch string
	var quiet bool
	cmd := &cobra.Command{
		Use: "build", Short: "Build a guest kernel, unless it has been built before",
		Long: "Build a guest kernel: a release of kernel.org, whose signature is checked, or with --source a tarball such as that of\n" +
			"Debian's package linux-source-6.1. The newest kernel that has been built is what microVMs start.",
		Example: "  agentkernel kernel build --version 6.1.70\n  agentkernel kernel build --source /usr/src/linux-source-6.1.tar.xz",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := kernelStore()
			if err != nil {
				return err
			}
			if req.Arch, err = kernelArch(arch); err != nil {
				return err
			}
			p := newProgress(e.errOut)
			req.Progress = func(ev kernel.Event) { p.kernel(ev) }
			k, err := kernel.Build(cmd.Context(), store, req)
			p.end()
			if err != nil {
				return err
			}
			switch {
			case e.json:
				return e.printJSON(k)
			case quiet:
				fmt.Fprintln(e.out, k.Key)
			default:
				fmt.Fprintln(e.out, k.VmlinuxPath())
			}
			return nil
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&req.Version, "version", "", "release of kernel.org, any 6.1.x or 6.12.x (default "+kernel.DefaultVersion+")")
	fs.StringVar(&req.Source, "source", "", "kernel source tarball (.tar.xz)")
	fs.StringVar(&req.SHA256, "sha256", "", "SHA-256 that the tarball must have")
	fs.StringVar(&arch, "arch", "", "architecture of the guest: x86_64 or aarch64 (default this host's)")
	fs.IntVarP(&req.Jobs, "jobs", "j", 0, "compile so many files at once (default one a CPU)")
	fs.BoolVarP(&quiet, "quiet", "q", false, "print the key alone")
	return cmd
}

func kernelArch(s string) (kernel.Arch, error) {
	if s == "" {
		return kernel.HostArch()
	}
	// As docker's --platform has it: linux/arm64, linux/arm64/v8.
	if platform, ok := strings.CutPrefix(s, "linux/"); ok {
		s = strings.TrimSuffix(platform, "/v8")
	}
	return kernel.ParseArch(s)
}

// platformToo lets --platform, as docker calls it, be another name of --arch.
func platformToo(fs *pflag.FlagSet) {
	fs.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "platform" {
			name = "arch"
		}
		return pflag.NormalizedName(name)
	})
}

func kernelListCommand(e *env) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the kernels that have been built", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			store, err := kernelStore()
			if err != nil {
				return err
			}
			list, err := store.List()
			if err != nil && len(list) == 0 {
				return err
			}
			if err != nil { // some are damaged, the others are there all the same
				fmt.Fprintln(e.errOut, "agentkernel: warning:", err)
			}
			if e.json {
				if list == nil {
					list = []kernel.Kernel{}
				}
				return e.printJSON(list)
			}
			if quiet {
				for _, k := range list {
					fmt.Fprintln(e.out, k.Key)
				}
				return nil
			}
			w := tabwriter.NewWriter(e.out, 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "RELEASE\tARCH\tSIZE\tCOMPRESSED\tBUILT\tKEY")
			for _, k := range list {
				compressed := "-"
				if k.BzImage != nil {
					compressed = units.HumanSize(float64(k.BzImage.Size))
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s ago\t%.12s\n", k.Release(), k.Arch, units.HumanSize(float64(k.Vmlinux.Size)), compressed,
					units.HumanDuration(time.Since(k.BuiltAt)), k.Key)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print keys alone")
	return cmd
}

// progress shows how far long work has come: one line that changes on a terminal, else a line for each tenth.
type progress struct {
	w        io.Writer
	terminal bool
	began    time.Time
	phase    string
	tenth    int64
	drawn    bool
}

func newProgress(w io.Writer) *progress {
	return &progress{w: w, terminal: terminal.Is(w), began: time.Now()}
}

func (p *progress) kernel(ev kernel.Event) {
	if ev.Phase == kernel.PhaseDone {
		return
	}
	p.update("kernel: "+string(ev.Phase), ev.Detail, ev.Done, ev.Total)
}

func (p *progress) update(phase, detail string, done, total int64) {
	tenth := int64(0)
	if total > 0 {
		tenth = min(done, total) * 10 / total
	}
	elapsed := time.Since(p.began).Round(time.Second)
	line := fmt.Sprintf("%s %s", phase, detail)
	if total > 0 {
		line = fmt.Sprintf("%s %d/%d (%d%%) %s", phase, done, max(done, total), min(done, total)*100/total, detail)
	}
	switch {
	case p.terminal:
		fmt.Fprintf(p.w, "\r\033[K%.100s [%v]", line, elapsed)
		p.drawn = true
	case phase != p.phase || tenth != p.tenth:
		fmt.Fprintf(p.w, "%s [%v]\n", line, elapsed)
	}
	p.phase, p.tenth = phase, tenth
}

// end leaves the terminal's line.
func (p *progress) end() {
	if p.drawn {
		fmt.Fprintln(p.w)
	}
}
