import java.io.File;
import java.util.List;
import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.ImagesApi;
import org.openapitools.client.api.ModelApi;
import org.openapitools.client.model.Explained;
import org.openapitools.client.model.Problem;

/** Uses the client that openapi-generator makes; prints what it got. Arguments: URL FILE. */
class UseClient {
    public static void main(String[] arguments) throws Exception {
        ApiClient client = new ApiClient();
        client.updateBaseUri(arguments[0]);
        ImagesApi images = new ImagesApi(client);
        File image = new File(arguments[1]);
        System.out.println(images.classify(image, 1, null, null).getPredictions().get(0).getLabel());
        System.out.println(images.classifyBatch(List.of(image, image), 1, null, null).getResults().size());
        Explained heatMap = images.explain(image, "bag", null, null, null);
        System.out.println(heatMap.getLabel() + " " + heatMap.getMap().size());
        System.out.println(images.findSimilar(image, 3, null, null).getNeighbors().size());
        System.out.println(new ModelApi(client).listLabels().getLabels().size());
        System.out.println(new ModelApi(client).getModel().getMultilabel());
        try {
            images.explain(image, "unknown", null, null, null);
        } catch (ApiException error) {
            Problem problem = ApiClient.createDefaultObjectMapper().readValue(error.getResponseBody(), Problem.class);
            System.out.println(error.getCode() + " " + problem.getCode());
        }
    }
}
