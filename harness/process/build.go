package process

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Build builds a command of the module topostream into dir, and gives the binary's path. The module is that of the
// directory source or, where source is empty, of the working directory.
func Build(ctx context.Context, source, dir, command string, flags ...string) (path string, err error) {
	path = filepath.Join(dir, command)
	args := append([]string{"build", "-o", path}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "topostream/cmd/"+command)...)
	cmd.Dir = source
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", command, err, strings.TrimSpace(string(out)))
	}
	return path, nil
}
