import java.util.Map;
import java.util.Scanner;

import org.springframework.context.annotation.AnnotationConfigApplicationContext;
import org.springframework.core.env.MapPropertySource;
import org.springframework.security.oauth2.jwt.JwtDecoder;
import org.springframework.security.oauth2.jwt.JwtException;

/** Reads tokens from standard input, one a line, and says of each whether it
 * is good. ISSUER and AUDIENCE are environment variables. */
class Main {
    public static void main(String[] arguments) {
        var context = new AnnotationConfigApplicationContext();
        context.register(Security.class);
        context.refresh(); // ${issuer} and ${audience}: the environment's ISSUER and AUDIENCE
        var decoder = context.getBean(JwtDecoder.class);
        for (var lines = new Scanner(System.in); lines.hasNextLine(); ) {
            try {
                System.out.println("ok " + decoder.decode(lines.nextLine()).getSubject());
            } catch (JwtException refused) {
                System.out.println("refused " + refused.toString().replace("\n", " "));
            }
        }
    }
}
